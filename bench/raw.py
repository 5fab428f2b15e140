"""``python -m bench.raw DIRECTORY BUCKET``: upload a directory with obstore and nothing else."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import ClientConfig


def main(source: str, bucket: str) -> None:
    client: ClientConfig = {"allow_http": True}
    if authority := os.environ.get("AWS_CA_BUNDLE"):
        client["root_certificate"] = Path(authority).read_bytes()
    store = S3Store(bucket, client_options=client)
    files = [path for path in sorted(Path(source).rglob("*")) if path.is_file()]

    def put(path: Path) -> None:
        obstore.put(store, f"raw/{path.name}", path, chunk_size=16 * 2**20, max_concurrency=8)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, files))


if __name__ == "__main__":
    main(*sys.argv[1:])

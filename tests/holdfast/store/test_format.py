"""docs/format.md is enough: a reader of the store with an S3 client, JSON and SHA-256 alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.push import push
from holdfast.store import open_store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.s3 import S3Server
from testkit.stores import OWNER, WORKLOAD


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    """Enough for ASCII names: sorted members, no white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def checked(data: bytes, *unhashed: str) -> dict:
    """Parse a document of ours and check its form and its digest."""
    document = json.loads(data)
    assert canonical(document) == data
    rest = {name: value for name, value in document.items() if name not in unhashed}
    assert sha256(canonical(rest)) == document["digest"]
    return document


def restore_by_hand(client, bucket: str, prefix: str, run: str, volume: Path) -> Path:
    """The four steps of "To restore by hand", for the latest snapshot."""

    def get(key: str) -> bytes:
        return client.get_object(Bucket=bucket, Key=f"{prefix}/{key}")["Body"].read()

    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/snapshots/{WORKLOAD}/")
    names = sorted(item["Key"].removeprefix(f"{prefix}/") for item in listed["Contents"])
    snapshots = [checked(get(name), "digest") for name in names]
    latest = [snapshot for snapshot in snapshots if snapshot["run"] == run][-1]
    for ref in latest["bundles"]:
        raw = get(ref["manifest"])
        manifest = checked(raw, "digest", "signature")
        assert manifest["digest"] == ref["digest"]
        assert sha256(canonical(manifest["files"])) == manifest["content"] == ref["content"]
        bundle = volume / run / f"gen-{latest['generation']:04d}" / ref["name"]
        for file in manifest["files"]:
            data = get(f"{ref['data']}/{file['path']}")
            assert (len(data), sha256(data)) == (file["size"], file["sha256"])
            (bundle / file["path"]).parent.mkdir(parents=True, exist_ok=True)
            (bundle / file["path"]).write_bytes(data)
        (bundle / "MANIFEST.json").write_bytes(raw)
    return bundle


@pytest.mark.s3
def test_a_reader_written_from_the_page_restores_what_we_pushed(
    volume: Volume,
    save: Callable[..., Bundle],
    s3_url: str,
    s3_server: S3Server,
    tmp_path: Path,
) -> None:
    catalog = Catalog(open_store(s3_url), OWNER)
    for step in (100, 200):
        saved = save(step, big=b"x" * 9_000_000)
        push(volume, catalog, WORKLOAD)
    bucket, prefix = s3_url.removeprefix("s3://").split("/", 1)

    restored = restore_by_hand(s3_server.client(), bucket, prefix, "run-a", tmp_path / "by-hand")

    assert verify(restored).manifest == saved.manifest
    assert Volume(tmp_path / "by-hand", "run-a").newest_valid(quarantine=False) is not None

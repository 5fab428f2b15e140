"""The store: an object-store prefix, or a directory, that holds copies of bundles and snapshots.

`open_store` reads the URL; `holdfast.store.base.Store` is what both kinds can do.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from holdfast.defaults import MEMORY
from holdfast.errors import UsageError
from holdfast.store.base import Store


def open_store(url: str, *, memory: int = MEMORY, deadline: float | None = None) -> Store:
    """Open ``s3://bucket/prefix`` or ``file:///absolute/directory``.

    Args:
        memory: bytes that transfers may hold at once.
        deadline: seconds from now after which every call raises `DeadlineExceeded`.

    Endpoint, region and credentials of S3 come from the standard ``AWS_*`` variables or the pod's
    or machine's identity, never from the URL.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(
            f"invalid store '{parts.scheme}://…': expected a bucket and a prefix only: pass"
            " credentials and options in the AWS_* environment variables"
        )
    if parts.scheme == "file":
        from holdfast.store.directory import DirectoryStore

        if parts.netloc or not parts.path.startswith("/"):
            raise UsageError(
                f"invalid store '{url}': expected an absolute path, such as file:///mnt/store"
            )
        return DirectoryStore(unquote(parts.path), url=url, memory=memory, deadline=deadline)
    if parts.scheme == "s3":
        from holdfast.store.s3 import S3

        if not parts.netloc:
            raise UsageError(f"invalid store '{url}': expected s3://bucket/prefix")
        return S3(parts.netloc, parts.path.strip("/"), memory=memory, deadline=deadline)
    raise UsageError(f"invalid store '{url}': expected s3://bucket/prefix or file:///directory")

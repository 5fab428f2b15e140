"""The store: an object-store prefix, or a directory, that holds copies of bundles and snapshots.

`open_store` reads the URL; `holdfast.store.base.Store` is what both kinds can do.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes, urlsplit

from holdfast.defaults import MEMORY
from holdfast.errors import UsageError
from holdfast.store.base import Store

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]|[\ud800-\udfff]")


def open_store(url: str, *, memory: int = MEMORY, deadline: float | None = None) -> Store:
    """Open ``s3://bucket/prefix`` or ``file:///absolute/directory``.

    Args:
        memory: bytes that transfers may hold at once.
        deadline: seconds from now after which every call raises `DeadlineExceeded`.

    Endpoint, region and credentials of S3 come from the standard ``AWS_*`` variables or the pod's
    or machine's identity, never from the URL.
    """
    if _CONTROL.search(url) or url != url.strip():
        raise UsageError(f"invalid store {url!r}: expected no spaces around it, no line breaks")
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is taken for the start of an IPv6 address
        parts = urlsplit("")
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
        path = os.fsdecode(unquote_to_bytes(parts.path))
        if "\0" in path:
            raise UsageError(f"invalid store '{url}': expected a path without a zero byte (%00)")
        return DirectoryStore(path, url=url, memory=memory, deadline=deadline)
    if parts.scheme == "s3":
        from holdfast.store.s3 import S3

        if not _BUCKET.fullmatch(parts.netloc):
            raise UsageError(f"invalid store '{url}': expected s3://bucket/prefix")
        prefix = parts.path.removeprefix("/").removesuffix("/")
        if any(part in ("", ".", "..") for part in prefix.split("/")[: len(prefix)]):
            raise UsageError(
                f"invalid store '{url}': expected a prefix without empty parts, '.' and '..'"
            )
        return S3(parts.netloc, prefix, memory=memory, deadline=deadline)
    raise UsageError(f"invalid store '{url}': expected s3://bucket/prefix or file:///directory")

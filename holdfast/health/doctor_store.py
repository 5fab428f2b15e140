"""What the doctor asks of a store that others write to as well, or that serves it badly."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from holdfast.errors import DeadlineExceeded, HoldfastError, StoreDenied
from holdfast.health.examination import Check, Level
from holdfast.store.base import is_key
from holdfast.store.directory import LOCK, TEMPORARY, DirectoryStore
from holdfast.store.documents import BUNDLE_PATH, SNAPSHOT_ID

if TYPE_CHECKING:
    from holdfast.store.base import Store

PROBES = 5  # objects that are written to see whether a listing has them all
LOOK_SECONDS = 5.0  # for a look through the whole store; the parts with documents are always seen
SHOWN = 5  # names of foreign objects on the one line

_PATH, _ID = BUNDLE_PATH.pattern, SNAPSHOT_ID.pattern
_OURS = re.compile(
    rf"OWNER\.json|CLOCK|doctor/.+|(?:locks|dropped)/[^/]+\.json"
    rf"|(?:snapshots|verified)/[^/]+/(?:{_ID})\.json|pins/[^/]+/(?:{_ID})"
    rf"|sequences/[^/]+/\d{{10}}(?:-withdrawn)?\.json"
    rf"|(?:manifests|tombstones)/(?:{_PATH})\.json|data/(?:{_PATH})/.+",
    re.ASCII | re.DOTALL,
)
_DOCUMENTS = ("snapshots", "sequences", "pins", "verified", "locks", "dropped", "tombstones")


def listings(store: Store) -> Iterable[Check]:
    """Whether the store lists all that it holds: five new objects, also two at a time."""
    name, folder = "listings", f"doctor/{secrets.token_hex(8)}"
    keys = [f"{folder}/{number}.json" for number in range(PROBES)]
    unchecked = ""
    try:
        for key in keys:
            store.put_small(key, b"{}")
        lacking = set(keys) - {info.key for info in store.list(folder)}
        problem = "an object that was just written is not listed" if lacking else ""
        if store.url.startswith("s3://") and not problem:
            problem, unchecked = _small_pages(store.url, folder)
    except StoreDenied:  # a reader: what was listed so far has to do
        problem = ""
    finally:
        with suppress(HoldfastError):
            store.delete(keys)
    if problem := store.listing_problem or problem:
        remedy = "prune and delete refuse to work: use a server or proxy that lists every object"
        yield Check(name, Level.FAIL, problem, remedy)
    else:
        yield Check(name, Level.OK, "complete" + (f" ({unchecked})" if unchecked else ""))


def _small_pages(url: str, folder: str) -> tuple[str, str]:
    """What is wrong with a listing in pages of two names; and why that was not looked at."""
    try:
        client = _client()
    except ImportError:
        return "", "small pages not checked: boto3 is not installed here"
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    where = {"Bucket": bucket, "Prefix": f"{prefix}/{folder}/".lstrip("/"), "MaxKeys": 2}
    token: dict[str, str] = {}
    names: list[str] = []
    try:
        for _ in range(PROBES + 1):
            page = client.list_objects_v2(**where, **token)
            names += [entry["Key"] for entry in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                break
            if not page.get("NextContinuationToken"):
                return "a page of a listing says that there are more, and gives no token", ""
            token = {"ContinuationToken": page["NextContinuationToken"]}
    except (ClientError, BotoCoreError) as error:
        return "", f"small pages not checked: {type(error).__name__}"
    if len(set(names)) < PROBES:
        return f"in pages of 2 names it lists {len(set(names))} of {PROBES} objects", ""
    if len(names) > PROBES:
        return "in pages of 2 names it lists the same object twice", ""
    return "", ""


def permissions(root: Path) -> Iterable[Check]:
    """A directory store that anyone on the machine may write to."""
    name, open_to_all = "permissions", []
    with suppress(FileNotFoundError):
        places = [root, *(path for path in root.iterdir() if path.is_dir())]
        open_to_all = [path for path in places if path.stat().st_mode & 0o002]
    if open_to_all:
        remedy = (
            "who writes to backups can delete them and run code in the trainer: `chmod -R o-w` it"
        )
        found = f"every user of this machine may write to '{open_to_all[0]}'"
        yield Check(name, Level.WARN, found, remedy)
    else:
        yield Check(name, Level.OK, "not writable by everyone")


def foreign_objects(store: Store) -> Iterable[Check]:
    """What is in the store and is not Holdfast's. Every verb ignores it."""
    name, where = "foreign objects", ""
    quick = store.within(LOOK_SECONDS)
    try:
        keys = [info.key for info in quick.list("")]
        if isinstance(store, DirectoryStore):
            keys += _irregular(store.root)
    except DeadlineExceeded:
        keys = [info.key for top in _DOCUMENTS for info in store.list(top)]
        where = " among the documents; data and manifests are too many to look through"
    foreign = sorted(key for key in keys if not _OURS.fullmatch(key))
    if not foreign:
        yield Check(name, Level.OK, f"none{where}")
        return
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    found = ", ".join(f"'{key}'" for key in foreign[:SHOWN]) + more + where
    remedy = "they are ignored: see who put them there, and remove them"
    yield Check(name, Level.WARN, found, remedy)


def _irregular(root: Path) -> Iterator[str]:
    """Names that a directory store passes over: links, pipes, and what is not plain UTF-8."""
    for top, directories, files in os.walk(root):
        here = Path(top)
        if here == root:
            directories[:] = [name for name in directories if name != TEMPORARY]
            files = [name for name in files if name != LOCK]
        for name in [*directories, *files]:
            path = here / name
            plain = path.is_dir() if name in directories else S_ISREG(path.lstat().st_mode)
            if path.is_symlink() or not plain or not is_key(name):
                yield str(path.relative_to(root))


def abort_rule(url: str) -> Iterable[Check]:
    """Interrupted uploads cost money, invisibly, until a rule of the bucket aborts them."""
    name, bucket = "abort-upload rule", url.removeprefix("s3://").split("/")[0]
    remedy = "add a lifecycle rule AbortIncompleteMultipartUpload after 7 days to the bucket"
    try:
        client = _client()
    except ImportError:
        yield Check(name, Level.WARN, "not checked: boto3 is not installed here", remedy)
        return
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code != "NoSuchLifecycleConfiguration":
            yield Check(name, Level.WARN, f"not checked: {code}", remedy)
            return
        rules = []
    except BotoCoreError as error:
        yield Check(name, Level.WARN, f"not checked: {type(error).__name__}", remedy)
        return
    days = [
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in rules
        if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule
    ]
    if days:
        yield Check(name, Level.OK, f"after {min(days)} days")
    else:
        yield Check(name, Level.WARN, "the bucket has none", remedy)


def _client() -> Any:
    """boto3, for what obstore does not ask. Raises ImportError where it is not installed."""
    import boto3
    from botocore.config import Config

    from holdfast.store.s3_settings import endpoint

    config = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
    return boto3.client("s3", config=config, endpoint_url=endpoint() or None)

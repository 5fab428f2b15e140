"""MANIFEST.json: the list of a bundle's files. `docs/format.md` is the specification.

The file holds exactly the canonical JSON (RFC 8785) of its content. Each manifest has one valid
sequence of bytes and `parse` refuses any other, so no flipped bit in it goes unnoticed.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from holdfast.errors import InvalidManifest, UsageError
from holdfast.printable import printable as on_one_line

MANIFEST = "MANIFEST.json"
MAX_MANIFEST_BYTES = 64 << 20  # about 350,000 files
MAX_PATH_BYTES = 512  # leaves half of a 1,024-byte object key to the store's own prefix
MAX_NAME_BYTES = 255  # one component, as file systems have it
MAX_INTEGER = 2**53 - 1  # beyond it JSON readers disagree

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_COMPONENT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def canonical(value: Any) -> bytes:
    """The canonical JSON (RFC 8785) of strings, integers, booleans, None, lists and dicts.

    Raises ValueError for anything else: our formats hold no floating-point numbers.
    """
    text = json.dumps(_ordered(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def sha256(data: bytes) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _ordered(value: Any) -> Any:
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= MAX_INTEGER:
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{value!r} cannot be written as canonical JSON: keys must be strings")
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    raise ValueError(
        f"{value!r} cannot be written as canonical JSON: use strings, and integers up to 2^53-1"
    )


def _utf8(value: str) -> str:
    value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    return value


def _time(value: object) -> object:
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(UTC).replace(microsecond=0)
    if isinstance(value, str) and _TIME.fullmatch(value):
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    raise ValueError(f"invalid time {value!r}: expected UTC, such as 2026-08-21T09:30:00Z")


def _time_text(value: datetime) -> str:
    return value.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=63)]
Name = Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
Component = Annotated[str, Field(pattern=rf"^{_COMPONENT.pattern}$")]
Time = Annotated[datetime, BeforeValidator(_time), PlainSerializer(_time_text)]
LabelKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*$", max_length=128)]
Text = Annotated[str, AfterValidator(_utf8)]
LabelValue = Text | Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]


class Document(BaseModel):
    """The base of all documents that we write: no unknown fields, one valid sequence of bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_bytes(self) -> bytes:
        """The document as canonical JSON."""
        return canonical(self.model_dump())


class FileEntry(Document):
    """One file of a bundle: its path in the bundle, its size in bytes, its SHA-256."""

    path: str
    size: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    sha256: Sha256


class Manifest(Document):
    """The content of a MANIFEST.json. Make one with `build`, read one with `parse`."""

    format: Literal[1] = 1
    kind: Kind
    name: Name
    created: Time
    labels: dict[LabelKey, LabelValue]
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]
    content: Sha256
    digest: Sha256
    signature: None = None

    @model_validator(mode="after")
    def _files_are_a_tree(self) -> Self:
        paths = [entry.path for entry in self.files]
        if problems := path_problems(paths):
            raise ValueError("; ".join(problems[:20]))
        if paths != sorted(paths, key=_by_bytes):
            raise ValueError("files are not sorted by the bytes of their paths")
        return self

    @classmethod
    def build(
        cls,
        kind: str,
        name: str,
        files: Iterable[FileEntry],
        labels: Mapping[str, str | int],
        created: datetime | None = None,
    ) -> Self:
        """Make the manifest of these files, given in any order. `created` defaults to now.

        Raises InvalidManifest, which names every invalid name, label or path.
        """
        entries = sorted(files, key=lambda entry: _by_bytes(entry.path))
        fields = {
            "format": 1,
            "kind": kind,
            "name": name,
            "created": created or datetime.now(UTC),
            "labels": dict(labels),
            "files": tuple(entries),
            "content": _EMPTY,
            "digest": _EMPTY,
        }
        try:
            draft = cls.model_validate(fields)
        except ValidationError as error:
            raise InvalidManifest(_summary(error)) from error
        draft = draft.model_copy(update={"content": draft._content()})
        return draft.model_copy(update={"digest": draft._digest()})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a manifest. Raises InvalidManifest unless `data` is exactly the bytes of one."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise InvalidManifest(_summary(error)) from error
        if manifest.to_bytes() != data:
            raise InvalidManifest("is not in canonical form: it was damaged or edited")
        if manifest.content != manifest._content():
            raise InvalidManifest("its content hash does not match its files: damaged or edited")
        if manifest.digest != manifest._digest():
            raise InvalidManifest("its digest does not match its fields: damaged or edited")
        return manifest

    @property
    def size(self) -> int:
        """The total size of the files in bytes, without MANIFEST.json."""
        return sum(entry.size for entry in self.files)

    def _content(self) -> str:
        return sha256(canonical(self.model_dump(include={"files"})["files"]))

    def _digest(self) -> str:
        return sha256(canonical(self.model_dump(exclude={"digest", "signature"})))


_EMPTY = sha256(b"")


def name_problem(name: str) -> str | None:
    """Why `name` is not a valid bundle name; None when it is."""
    if _NAME.fullmatch(name):
        return None
    return "use 1 to 128 characters of a-z, 0-9, '.', '_' and '-', with a letter or digit first"


def path_problems(paths: Iterable[str]) -> list[str]:
    """Every reason why these paths cannot be the files of one bundle; empty when they can.

    A path without a problem means the same file on every file system, in every store and tool.
    """
    problems = []
    files: set[str] = set()
    directories: set[str] = set()
    spelled = {MANIFEST.casefold(): MANIFEST}
    for path in paths:
        if found := _problems_of(path):
            problems += [f"{printable(path)}: {problem}" for problem in found]
            continue
        if path in files:
            problems.append(f"{printable(path)}: is listed twice")
        files.add(path)
        parents = _parents(path, directories)
        directories.update(parents)
        for prefix in [*parents, path]:
            other = spelled.setdefault(_folded(prefix), prefix)
            if other != prefix:
                problems.append(f"{printable(path)}: differs from {other} only in case")
                break
    problems += [f"{path}: is both a file and a directory" for path in sorted(files & directories)]
    return problems


def _parents(path: str, known: set[str]) -> list[str]:
    """The directories above a path that are not in `known`, from the bottom up."""
    parents = []
    while (path := path.rpartition("/")[0]) and path not in known:
        parents.append(path)
    return parents


def _problems_of(path: str) -> list[str]:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return ["is not UTF-8"]
    parts = path.split("/")
    checks = [
        (not path, "is empty"),
        (path.startswith("/"), "is absolute"),
        (".." in parts, "has a part '..'"),
        (path and not path.startswith("/") and "" in parts, "has an empty part"),
        ("." in parts, "has a part '.'"),
        ("\\" in path, "has a backslash"),
        (_CONTROL.search(path), "has a control character"),
        (not unicodedata.is_normalized("NFC", path), "is not in Unicode form NFC"),
        (len(encoded) > MAX_PATH_BYTES, f"is longer than {MAX_PATH_BYTES} bytes"),
        (
            len(encoded) > MAX_NAME_BYTES
            and any(len(part) > MAX_NAME_BYTES for part in encoded.split(b"/")),
            f"has a part longer than {MAX_NAME_BYTES} bytes",
        ),
        (path == MANIFEST, "is a name reserved for the manifest"),
    ]
    return [problem for wrong, problem in checks if wrong]


def _folded(path: str) -> str:
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _by_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def printable(path: str) -> str:
    """The path for display on one line, as every line of output."""
    return on_one_line(path) or "''"


def _summary(error: ValidationError) -> str:
    problems: Sequence[str] = [
        f"{'.'.join(map(str, problem['loc'])) or 'manifest'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(problems[:20])


def check_name(name: str, what: str = "name") -> str:
    """Return the name of a workload or run; raise UsageError if it is not a valid one."""
    if problem := component_problem(name):
        raise UsageError(f"invalid {what} {name!r}: {problem}")
    return name


def component_problem(name: str) -> str | None:
    """Why no workload or run can have this name; None if it is valid."""
    if _COMPONENT.fullmatch(name):
        return None
    return "use 1 to 63 characters of a-z, 0-9 and '-', with no '-' at either end"

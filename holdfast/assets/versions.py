"""Versions of datasets and models: each is a snapshot of the workload that keeps them for all.

The run of such a snapshot is the name of the dataset or model, its label `version` the version, and
its one bundle the content. The bundle lies under the hash of its files, so that equal content is
stored once, whatever names and versions it has. `docs/format.md` is the specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.assets.aliases import Alias, current
from holdfast.defaults import SHARED
from holdfast.errors import NoSnapshot, UsageError
from holdfast.manifest import check_name
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import BundleRef, Snapshot
from holdfast.store.snapshot import Catalog

KINDS = tuple(SHARED)
VERSION = "version"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
_TITLES = {workload: kind for kind, workload in SHARED.items()}


@dataclass(frozen=True)
class Version:
    """One version of a dataset or model."""

    snapshot: Snapshot

    @property
    def kind(self) -> str:
        return _TITLES[self.snapshot.workload]

    @property
    def name(self) -> str:
        return self.snapshot.run

    @property
    def version(self) -> str:
        return str(self.snapshot.labels.get(VERSION, ""))

    @property
    def ref(self) -> BundleRef:
        return self.snapshot.bundles[0]

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Wanted:
    """What a person asked for: ``name``, ``name:version`` or ``name@alias``."""

    name: str
    version: str | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """Raises UsageError for anything else."""
        name, mark, rest = text, "", ""
        if found := re.search("[:@]", text):
            name, mark, rest = text[: found.start()], found[0], text[found.end() :]
        check_name(name, "name")
        if mark == ":":
            return cls(name, version=check_version(rest))
        return cls(name, alias=check_name(rest, "alias")) if mark else cls(name)

    def __str__(self) -> str:
        if self.version:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


def check_version(text: str) -> str:
    """Return a valid version; raise UsageError for any other."""
    if not _VERSION.fullmatch(text):
        raise UsageError(
            f"invalid version {text!r}: use 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '+' and"
            " '-', with a letter or digit first"
        )
    return text


def workload_of(kind: str) -> str:
    """The workload that keeps the versions of this kind."""
    if kind not in SHARED:
        raise UsageError(f"invalid kind '{kind}': use {' or '.join(KINDS)}")
    return SHARED[kind]


def versions(
    catalog: Catalog, kind: str, name: str | None = None, *, progress: Progress = SILENT
) -> Iterator[Version]:
    """The versions of one kind (and name), newest first; says what cannot be read."""
    for found in catalog.candidates(workload_of(kind), name):
        if not isinstance(found, Snapshot):
            progress.note(str(found))
        elif VERSION in found.labels and found.has(kind):
            yield Version(found)


def resolve(
    catalog: Catalog, text: str, kind: str | None = None, *, progress: Progress = SILENT
) -> Version:
    """The version that a person means; without a version or an alias the newest.

    Args:
        kind: ``dataset`` or ``model``. None: whichever has the name.

    Raises:
        NoSnapshot: there is none; the message says which there are.
        UsageError: both a dataset and a model have the name.
    """
    wanted = Wanted.parse(text)
    tried = (kind,) if kind else KINDS
    found = [
        version for one in tried if (version := _find(catalog, one, wanted, progress)) is not None
    ]
    if len(found) > 1:
        raise UsageError(f"'{text}' is a dataset and a model: give --kind")
    if not found:
        raise NoSnapshot(_missing(catalog, wanted, tried))
    return found[0]


def _find(catalog: Catalog, kind: str, wanted: Wanted, progress: Progress) -> Version | None:
    known = versions(catalog, kind, wanted.name, progress=progress)
    if wanted.alias:
        alias = current(catalog.store, workload_of(kind), wanted.name, wanted.alias)
        return None if alias is None else _aliased(known, alias)
    return next((one for one in known if wanted.version in (None, one.version)), None)


def _aliased(known: Iterator[Version], alias: Alias) -> Version:
    """By version and content, not by snapshot: the same may have been added again."""
    for one in known:
        if (one.version, one.ref.content) == (alias.version, alias.content):
            return one
    raise NoSnapshot(
        f"alias '{alias.alias}' of '{alias.name}' is version {alias.version}, which was deleted:"
        f" promote another one (`holdfast promote {alias.name} VERSION --alias {alias.alias}`)"
    )


def _missing(catalog: Catalog, wanted: Wanted, kinds: tuple[str, ...]) -> str:
    what = " or ".join(kinds)
    known = [one.version for kind in kinds for one in versions(catalog, kind, wanted.name)]
    if not known:
        return (
            f"store {catalog.store.url} has no {what} '{wanted.name}': see `holdfast list --kind"
            f" {kinds[-1]}`"
        )
    shown = ", ".join(dict.fromkeys(known[:10])) + (", …" if len(known) > 10 else "")
    lacks = f"alias '{wanted.alias}'" if wanted.alias else f"version '{wanted.version}'"
    return f"{what} '{wanted.name}' has no {lacks}: its versions are {shown}"

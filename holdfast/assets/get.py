"""Bring a version of a dataset or model back: into a directory, or onto an application's volume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from holdfast import durable
from holdfast.assets.aliases import current
from holdfast.assets.versions import Version, Wanted, resolve
from holdfast.bundle import Bundle, check_files, check_tree
from holdfast.copies.draft import remove_abandoned
from holdfast.copies.followed import follow, followed, held_since
from holdfast.copies.pull import PULLING, check_space, fetch, remove_leftovers
from holdfast.defaults import KEEP
from holdfast.durable import open_regular
from holdfast.errors import (
    DeadlineExceeded,
    HoldfastError,
    InvalidBundle,
    InvalidManifest,
    OwnerMismatch,
    StoreError,
)
from holdfast.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, sha256
from holdfast.progress import SILENT, Progress
from holdfast.recovery.refill import ANSWER, ANSWER_WHEN_VALID
from holdfast.recovery.restore import replace_locked
from holdfast.store.lock import run_lock
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume


@dataclass(frozen=True)
class Got:
    """What a get did: the bundle, and whether it was copied or was there already.

    ``version`` is None, and ``problem`` says why, where the store did not answer and the model
    that was on the volume is kept. ``held`` says since when a person's restore is kept instead of
    the ``version``.
    """

    version: Version | None
    bundle: Bundle
    copied: bool
    generation: int = 0
    problem: str = ""
    held: datetime | None = None


def get(catalog: Catalog, version: Version, into: Path, *, progress: Progress = SILENT) -> Got:
    """Copy a version into a directory that does not exist or is empty, every byte verified.

    The directory appears at once, when all of it is there, with its MANIFEST.json. One that holds
    this very content already is verified and left as it is.

    Raises:
        HoldfastError: the directory holds something else.
        Mismatch: the store's bytes differ from the manifest; nothing was written.
        NoSpace: they do not fit.
    """
    into = Path(os.path.abspath(into))  # noqa: PTH100 (a link is not followed)
    manifest = catalog.manifest(version.ref)
    if there := _present(into, manifest):
        return Got(version, there, copied=False)
    if into.is_mount():
        raise HoldfastError(
            f"'{into}' is a mount point, which nothing can replace at once: give a directory in it"
        )
    scratch, prefix = into.parent, f"{PULLING}{sha256(os.fsencode(into.name))[:8]}-"
    check_space(scratch, manifest.size)
    remove_abandoned(scratch, prefix)
    made = fetch(
        catalog,
        version.ref,
        manifest,
        into,
        scratch,
        progress,
        prefix=prefix,
        replace_empty=True,
        title=f"get {version}",
    )
    return Got(version, made, copied=True)


def get_on_volume(
    catalog: Catalog,
    wanted: str,
    volume: Volume,
    *,
    keep: int = KEEP,
    answer: float = ANSWER,
    progress: Progress = SILENT,
) -> Got:
    """Make this version the one that the application on a volume goes on from.

    If the newest valid bundle of the present generation has that content, nothing is done; nor if a
    person restored that generation, and what is ``wanted`` has not moved since: no promotion of the
    alias is later, and the same was wanted before. Else the version becomes the only bundle of the
    next generation, by one rename, and of the bundles before it the newest ``keep`` stay. Nothing
    else may write to the run, as before a pod's own process starts. Where the store does not answer
    within ``answer`` seconds, or what it holds is damaged, a valid bundle on the volume is kept.

    Raises:
        NoSnapshot: the store has no such version.
        StoreError, DeadlineExceeded: the store is of no use, and there is no valid bundle.
    """
    with run_lock(volume.run_path) as held:  # several pods may start at once
        if held:
            remove_leftovers(volume.run_path)
        valid = volume.newest_valid(quarantine=True)
        present = volume.present() or 1
        soon = catalog.within(answer if valid is None else min(answer, ANSWER_WHEN_VALID))
        try:
            soon.check_owner()
            version = resolve(soon, wanted, volume.kind, progress=progress)
            if valid is not None:
                same = valid.manifest.content == version.ref.content
                held = None if same else _held(soon, volume, wanted, version)
                if same or held:
                    follow(volume, wanted)
                    return Got(version, valid, copied=False, generation=present, held=held)
            generation = replace_locked(volume, catalog, version.snapshot, progress)
            follow(volume, wanted)
        except (StoreError, DeadlineExceeded, OwnerMismatch) as error:
            if valid is None:
                raise
            return Got(None, valid, copied=False, generation=present, problem=str(error))
        made = next(one for one in volume.bundles() if one.name == version.ref.name)
        volume.keep(keep)
        return Got(version, made, copied=True, generation=generation)


def _held(catalog: Catalog, volume: Volume, wanted: str, version: Version) -> datetime | None:
    """Since when a person's restore is kept, if it still is."""
    since = held_since(volume)
    if since is None or followed(volume) not in (None, wanted):
        return None
    moved = version.snapshot.created
    if alias := Wanted.parse(wanted).alias:
        record = current(catalog.store, version.snapshot.workload, version.name, alias)
        moved = record.created if record else moved
    return since if moved <= since else None


def _present(into: Path, manifest: Manifest) -> Bundle | None:
    """The bundle, if the directory holds it whole; raises for a directory that holds another."""
    if not durable.exists(into):
        return None
    if not durable.is_directory(into):
        raise HoldfastError(f"'{into}' is a link or a file: give a directory")
    if not durable.entries(into):
        return None
    try:
        with open_regular(into / MANIFEST) as file:
            there = Manifest.parse(file.read(MAX_MANIFEST_BYTES + 1))
    except (OSError, InvalidManifest):
        there = None
    if there is None or there.content != manifest.content:
        raise HoldfastError(
            f"'{into}' is not empty, and holds something else: give a directory that does not exist"
            " or is empty"
        )
    check_tree(into, there)
    if problems := check_files(into, there.files):
        raise InvalidBundle(into, problems)
    return Bundle(into, there)

"""From options to objects: the volume and the store a verb works on, or what to set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import options
from holdfast.cli.options import Side
from holdfast.cli.output import say
from holdfast.errors import HoldfastError, UsageError
from holdfast.shortened import only_match

#: the form of a snapshot's ID, with 0 for any digit and f for any hexadecimal one
_ID = "0000000000-00000000T000000Z-ffffffff"
_DIGITS, _HEX = "0123456789", "0123456789abcdef"

if TYPE_CHECKING:
    from holdfast.bundle import Bundle
    from holdfast.store.snapshot import Catalog, Choice, PassedOver
    from holdfast.volume import Volume


def open_volume(root: Path | None, run: str | None, kind: str | None = None) -> Volume:
    """The run on the volume. Without a run name: the only one that is there; without a kind, its
    bundles of every kind."""
    from holdfast.manifest import component_problem
    from holdfast.volume import Volume

    if root is None:
        raise UsageError("no volume is named: give --volume or set HOLDFAST_VOLUME")
    if not root.is_dir():
        raise HoldfastError(f"volume '{root}' is not a directory: is it mounted there?")
    if run is None:
        runs = sorted(
            path.name
            for path in root.iterdir()
            if component_problem(path.name) is None and any(path.glob("gen-*"))
        )
        if len(runs) != 1:
            held = f"it holds {', '.join(runs)}" if runs else "it holds none yet"
            raise UsageError(f"no run is named, and {held}: give --run or set HOLDFAST_RUN")
        run = runs[0]
    return Volume(root, run, kind)


def open_catalog(
    store: str | None,
    owner: str | None,
    memory: int,
    deadline: float | None,
    *,
    check: bool = True,
) -> Catalog:
    """The store's catalogue. Another owner's store is refused unless the caller checks later."""
    from holdfast.store import open_store
    from holdfast.store.snapshot import Catalog

    url = options.required(store, "store")
    catalog = Catalog(open_store(url, memory=memory, deadline=deadline), owner)
    if check:
        catalog.check_owner()
    return catalog


def choose_snapshot(
    catalog: Catalog, workload: str, run: str | None, which: str, volume: Path | None = None
) -> Choice:
    """The snapshot meant by an ID, ``latest`` or ``before=TIME``; by an ID, of any run.

    An ID may be shortened to any beginning that no other has. Says which newer ones were passed
    over, also those that only the volume knows of.
    """
    from holdfast.store.snapshot import Choice

    if begins_id(which):
        return Choice(catalog.read(workload, full_id(catalog, workload, which)))
    if run is None:
        runs = sorted({snapshot.run for snapshot in catalog.snapshots(workload)})
        if len(runs) > 1:
            raise UsageError(f"the store has runs {', '.join(runs)}: give --run or HOLDFAST_RUN")
        run = runs[0] if runs else workload
    lost = [] if volume is None else lost_by_store(volume, catalog, workload, run)
    for one in lost:
        say(str(one))
    found = catalog.choose(workload, run, which)
    for one in found.passed_over:
        say(str(one))
    return Choice(found.snapshot, (*lost, *found.passed_over))


def lost_by_store(root: Path, catalog: Catalog, workload: str, run: str) -> list[PassedOver]:
    """What the volume remembers of the store and the store has lost."""
    from holdfast.copies.remembered import recall, rolled_back
    from holdfast.volume import Volume

    volume = Volume(root, run)
    _, ignored = recall(volume, catalog, workload)
    if ignored:
        say(ignored)
    return rolled_back(volume, catalog, workload, catalog.index(workload))


def open_snapshot(
    which: str,
    run: str | None,
    store: str | None,
    owner: str | None,
    workload: str | None,
    memory: int,
    deadline: float | None,
    volume: Path | None = None,
) -> tuple[Catalog, Choice]:
    """The snapshot that a verb's target or option means, and the catalogue that has it."""
    name = options.required(workload, "workload")
    catalog = open_catalog(store, owner, memory, deadline)
    return catalog, choose_snapshot(catalog, name, run, which, volume)


def begins_id(text: str) -> bool:
    """Whether a snapshot's ID can begin like this, or is this."""
    return len(text) <= len(_ID) and all(
        letter in (_DIGITS if place == "0" else _HEX if place == "f" else place)
        for letter, place in zip(text, _ID, strict=False)
    )


def full_id(catalog: Catalog, workload: str, text: str) -> str:
    """The one ID of the workload's snapshots that begins like this."""
    if len(text) == len(_ID):
        return text
    return only_match(f"snapshot of workload '{workload}'", text, list(catalog.written(workload)))


def is_snapshot(text: str) -> bool:
    """Whether this is written like the name of a snapshot, not of a bundle."""
    return text == "latest" or text.startswith("before=") or (bool(text) and begins_id(text))


def is_version(text: str) -> bool:
    """Whether this is written like NAME:VERSION or NAME@ALIAS: no bundle or snapshot is."""
    return bool(set(text) & set(":@")) and "/" not in text and not text.startswith("before=")


def means_snapshot(target: str, volume: Path | None, run: str | None, store: str | None) -> bool:
    """Whether a target means a snapshot: the beginning of an ID may be a bundle's name as well."""
    if not is_snapshot(target) or not begins_id(target) or len(target) == len(_ID):
        return is_snapshot(target)
    if volume is None or store is None:
        return store is not None
    named = open_volume(volume, run)
    return not any(bundle.name == target for _, bundle in named.history())


def sides(side: Side, volume: Path | None, store: str | None) -> tuple[bool, bool]:
    """Whether to look at the volume and at the store."""
    if side is Side.VOLUME:
        return True, False
    if side is Side.STORE:
        return False, True
    if volume is None and store is None:
        raise UsageError("nothing to look at: give --volume, --store or both")
    return volume is not None, store is not None


def find_bundle(name: str, volume: Path | None, run: str | None) -> Bundle:
    """A bundle by its directory, or by its name in the newest generation that has it."""
    from holdfast.bundle import read_bundle

    if "/" in name or name == ".":
        return read_bundle(Path(name).resolve())
    target = open_volume(volume, run)
    for _, bundle in target.history():
        if bundle.name == name:
            return bundle
    for generation in target.generations():
        for damaged in target.damaged(generation):
            if damaged.path.name == name:
                raise damaged
    raise UsageError(
        f"run '{target.run}' has no bundle '{name}' on the volume: see `holdfast list`"
    )

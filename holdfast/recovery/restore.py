"""Restore to a point in time: stage (while training goes on), then switch (one rename).

`stage` pulls a snapshot into ``<run>/.stage-<id>``, verified. `switch` renames that directory to
the next generation, which is the present one from then on. Older generations never change. To undo
a restore, switch again: to a new generation made of hard links to the files of an older one.

`holdfast.recovery.writers` keeps a switch and a trainer apart: a switch refuses while a process has
the run open for writing, and when a pod has started since the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast import bundle as bundles
from holdfast import durable
from holdfast.bundle import Bundle
from holdfast.copies.followed import MARKER, hold, marker
from holdfast.copies.pull import PULLING, pull_locked, remove_leftovers
from holdfast.copies.remembered import remember
from holdfast.errors import DeadlineExceeded, HoldfastError, InvalidBundle, UsageError
from holdfast.failpoint import failpoint
from holdfast.manifest import MANIFEST, canonical
from holdfast.progress import SILENT, Progress
from holdfast.recovery.writers import STAGE, VOID, StageVoid, no_writers
from holdfast.shortened import only_match
from holdfast.store.documents import Snapshot
from holdfast.store.lock import run_lock
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume


@dataclass(frozen=True)
class Stage:
    """A state that is ready for the switch.

    ``generation`` is the number that it gets, ``origin`` the snapshot ID or the generation that it
    was made from, ``size`` the bytes of its bundles.
    """

    id: str
    path: Path
    origin: str
    generation: int
    bundles: tuple[str, ...]
    size: int


def stage(
    volume: Volume, catalog: Catalog, snapshot: Snapshot, *, progress: Progress = SILENT
) -> Stage:
    """Pull a snapshot into a hidden directory of the run, while training goes on.

    An earlier stage that was never switched to is removed, because space is reserved for one.
    Raises what `holdfast.copies.pull.pull` raises; nothing was changed then.
    """
    if snapshot.run != volume.run:
        raise UsageError(
            f"snapshot {snapshot.id} is of run '{snapshot.run}', the volume holds"
            f" '{volume.run}': give --run {snapshot.run} if you mean it"
        )
    if not snapshot.has(volume.kind):
        raise UsageError(
            f"snapshot {snapshot.id} has no bundle of kind '{volume.kind}', which this run goes on"
            " from: choose another, or give --kind"
        )
    with run_lock(volume.run_path):
        made = _stage(volume, catalog, snapshot, progress)
        remember(volume, catalog, snapshot)
        return made


def replace_locked(
    volume: Volume, catalog: Catalog, snapshot: Snapshot, progress: Progress = SILENT
) -> int:
    """`stage` and `switch` at once, for who holds the run's lock while nothing else writes to the
    run; returns the new generation. The snapshot may be of another workload, such as a model."""
    _remove_stages(volume)
    draft = _draft(volume)
    try:
        pull_locked(snapshot, catalog, draft, volume.run_path, progress)
        _mark(volume, draft, snapshot.id)
        # Never a stage: another pod that starts now would void it.
        return _make_present(volume, draft)
    finally:
        durable.discard(draft)


def _stage(volume: Volume, catalog: Catalog, snapshot: Snapshot, progress: Progress) -> Stage:
    _remove_stages(volume)
    draft = _draft(volume)
    try:
        pulled = pull_locked(snapshot, catalog, draft, volume.run_path, progress)
        return _finish(volume, draft, snapshot.id, pulled)
    finally:
        durable.discard(draft)


def switch(volume: Volume, stage_id: str, until: datetime | None = None) -> int:
    """Make a stage the present generation; returns its number.

    A second switch to the same stage succeeds and changes nothing. The ID may be shortened to any
    beginning that no other has.

    Args:
        until: when whoever asked for it stopped waiting. A later switch would surprise everyone.

    Raises:
        WriterPresent: a process has the run open for writing.
        StageVoid: a pod started after the stage was made.
        DeadlineExceeded: it is past ``until``.
    """
    if not stage_id.isalnum():
        raise UsageError(
            f"invalid stage ID '{stage_id}': use the one that `holdfast stage` printed"
        )
    with run_lock(volume.run_path):
        stage_id = _full_id(volume, stage_id)
        if (made := _made_of(volume, stage_id)) is not None:
            return made
        if until is not None and datetime.now(UTC) > until:
            raise DeadlineExceeded(
                f"run '{volume.run}': nobody waits for this switch since"
                f" {until.isoformat(timespec='seconds')}, so nothing was switched: restore again if"
                " it is still wanted"
            )
        with no_writers(volume):
            return _switch(volume, stage_id)


def _switch(volume: Volume, stage_id: str) -> int:
    staged = volume.run_path / f"{STAGE}{stage_id}"
    if not durable.is_directory(staged):
        if durable.is_directory(staged.with_name(f"{VOID}{stage_id}")):
            raise _void(volume, stage_id)
        raise HoldfastError(
            f"run '{volume.run}' has no stage {stage_id}: a later stage replaced it;"
            " stage the snapshot again"
        )
    if marker(staged).get("id") != stage_id:
        raise HoldfastError(f"'{staged}' is incomplete: stage the snapshot again")
    try:
        hold(staged)
        return _make_present(volume, staged)
    except FileNotFoundError:
        if durable.is_directory(staged):
            raise
        raise _void(volume, stage_id) from None


def _make_present(volume: Volume, staged: Path) -> int:
    """Rename a marked directory to the next generation; returns its number."""
    for path in staged.iterdir():
        if not path.name.startswith("."):
            bundles.verify(path, quick=True)
    number = (volume.present() or 0) + 1
    failpoint("switch.before-rename")
    made = volume.generation_path(number)
    durable.rename_durably(staged, made)
    failpoint("switch.after-rename")
    if not durable.is_directory(made):
        raise HoldfastError(
            f"'{made}' is a link now: someone replaced the stage; stage the snapshot again"
        )
    return number


def switch_to_generation(volume: Volume, number: int) -> int:
    """Undo a restore: make a new generation of the bundles of an older one; returns its number.

    Files are hard-linked (or copied where links fail), so it takes no space. The older generation
    stays as it is. Damaged bundles are left out.

    Raises:
        WriterPresent: a process has the run open for writing.
    """
    generations = volume.generations()
    if number not in generations[:-1]:
        known = ", ".join(map(str, generations[:-1])) or "none"
        raise UsageError(
            f"run '{volume.run}' cannot go back to generation {number}: older generations are"
            f" {known}"
        )
    with run_lock(volume.run_path), no_writers(volume):
        _remove_stages(volume)
        draft = _draft(volume)
        draft.mkdir()
        try:
            linked = [_link_bundle(found, draft) for found in _sound(volume, number)]
            if not linked:
                raise HoldfastError(
                    f"generation {number} of run '{volume.run}' has no valid bundle: restore a"
                    " snapshot instead"
                )
            made = _finish(volume, draft, f"generation {number}", linked)
        finally:
            durable.discard(draft)
        return _switch(volume, made.id)


def _finish(volume: Volume, draft: Path, origin: str, found: list[Bundle]) -> Stage:
    """Mark a complete draft as such and give it the name that `switch` looks for."""
    stage_id = _mark(volume, draft, origin)
    path = volume.run_path / f"{STAGE}{stage_id}"
    failpoint("stage.before-rename")
    durable.rename_durably(draft, path)
    failpoint("stage.after-rename")
    return Stage(
        id=stage_id,
        path=path,
        origin=origin,
        generation=(volume.present() or 0) + 1,
        bundles=tuple(sorted(bundle.name for bundle in found)),
        size=sum(bundle.manifest.size for bundle in found),
    )


def _draft(volume: Volume) -> Path:
    """A name for a directory in which a generation is made."""
    return volume.run_path / f"{PULLING}stage-{durable.unique()}"


def _mark(volume: Volume, draft: Path, origin: str) -> str:
    """Say in the draft that it is complete; returns the ID that it gets."""
    stage_id = durable.unique()
    fields = {"format": 1, "id": stage_id, "origin": origin, "run": volume.run}
    durable.write_durably(draft / MARKER, canonical(fields))
    return stage_id


def _full_id(volume: Volume, stage_id: str) -> str:
    """The ID of a stage, or of one that became a generation, of which this is the beginning."""
    made = (marker(volume.generation_path(number)).get("id") for number in volume.generations())
    known = {str(held) for held in made if held}
    for prefix in (STAGE, VOID):
        known |= {path.name.removeprefix(prefix) for path in volume.run_path.glob(f"{prefix}*")}
    if any(held.startswith(stage_id) for held in known):
        return only_match("stage", stage_id, known)
    return stage_id


def _made_of(volume: Volume, stage_id: str) -> int | None:
    """The generation that this stage became, if it did."""
    for number in reversed(volume.generations()):
        if marker(volume.generation_path(number)).get("id") == stage_id:
            return number
    return None


def _void(volume: Volume, stage_id: str) -> StageVoid:
    return StageVoid(
        f"run '{volume.run}': a pod started after stage {stage_id} was made, so nothing was"
        " switched: the pause did not hold, or came later than that start. Pause the topmost owner"
        " of the pods, and restore again"
    )


def _remove_stages(volume: Volume) -> None:
    for stale in [*volume.run_path.glob(f"{STAGE}*"), *volume.run_path.glob(f"{VOID}*")]:
        try:
            durable.rename_durably(stale, stale.with_name(f"{PULLING}old-{durable.unique()}"))
        except OSError:  # no clean-up stops a stage; this says what it is
            durable.discard(stale)
    remove_leftovers(volume.run_path)


def _sound(volume: Volume, number: int) -> list[Bundle]:
    found = []
    for bundle in Volume(volume.root, volume.run, None).bundles(number):
        try:
            found.append(bundles.verify(bundle.path, quick=True))
        except InvalidBundle:
            continue
    return found


def _link_bundle(bundle: Bundle, parent: Path) -> Bundle:
    target = parent / bundle.name
    directories = {target}
    target.mkdir()
    for path in [*(entry.path for entry in bundle.manifest.files), MANIFEST]:
        new = target / path
        if new.parent not in directories:
            new.parent.mkdir(parents=True, exist_ok=True)
            directories.update(p for p in new.parents if p.is_relative_to(target))
        if not durable.try_link(bundle.path / path, new):
            durable.copy_file(bundle.path / path, new)
    for directory in sorted(directories, reverse=True):
        durable.fsync_directory(directory)
    return Bundle(target, bundle.manifest)

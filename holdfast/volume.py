"""The bundles of one run on a volume: find the newest valid one, keep the newest K.

    <volume>/<run>/gen-0001/step-00000100/MANIFEST.json …
                           /.quarantine/  .pins/  .tmp-… (being written)
                  /gen-0002/ …            .stage-…  .pull-… (a restore, a refill)

Steps order the bundles of a generation (`holdfast.labels.newness`). One process at a time writes
to a run (its trainer, or what restores it while the trainer is stopped); only that one may call
`keep` and `sweep`. Any number may read.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from holdfast import durable
from holdfast.bundle import QUARANTINE, Bundle, quarantine, read_bundle, verify
from holdfast.defaults import KIND
from holdfast.errors import InvalidBundle, UsageError
from holdfast.labels import is_healthy, newness
from holdfast.manifest import MAX_INTEGER, check_name
from holdfast.retention import last_good

PINS = ".pins"

_GENERATION = re.compile(r"gen-(?!0000)(0\d{3}|[1-9]\d{3,})", re.ASCII)

logger = logging.getLogger(__name__)


class Volume:
    """The bundles of one run under `root`. The constructor neither reads nor creates anything.

    Only bundles of one `kind` count: a dataset that lies beside checkpoints is never the newest
    checkpoint, and is neither pushed nor removed with them. With None all do, for who only looks.
    """

    def __init__(self, root: Path, run: str, kind: str | None = KIND) -> None:
        durable.require_utf8()
        self.root = Path(root)
        self.run = check_name(run, "run name")
        self.run_path = self.root / run
        self.kind = kind
        self._failed: dict[Path, InvalidBundle] = {}
        #: bundles that were passed over because of a fault of the system
        self.unreadable: dict[Path, OSError] = {}

    def generations(self) -> list[int]:
        """The numbers of all generations, ascending."""
        numbers = []
        for path in durable.entries(self.run_path):
            match = _GENERATION.fullmatch(path.name)
            if match and int(match[1]) <= MAX_INTEGER and durable.is_directory(path):
                numbers.append(int(match[1]))
        return sorted(numbers)

    def present(self) -> int | None:
        """The number of the newest generation, where training continues; None if there is none."""
        return max(self.generations(), default=None)

    def generation_path(self, number: int) -> Path:
        """The directory of generation `number` (1 or more), which need not exist."""
        if number < 1:
            raise UsageError(f"invalid generation {number}: the first one is 1")
        return self.run_path / f"gen-{number:04d}"

    def bundles(self, generation: int | None = None) -> list[Bundle]:
        """The bundles of a generation (default: the present one), newest first.

        Only manifests are read. A bundle without a readable manifest is left out: see `damaged`.
        """
        return [found for found in self.scan(generation) if isinstance(found, Bundle)]

    def damaged(self, generation: int | None = None) -> list[InvalidBundle]:
        """The bundles of a generation (default: the present one) whose manifest is unreadable."""
        return [found for found in self.scan(generation) if isinstance(found, InvalidBundle)]

    def scan(self, generation: int | None = None) -> list[Bundle | InvalidBundle]:
        """`bundles` and `damaged` of a generation in one list, newest first.

        A manifest on a bad sector says nothing about its bundle: it is logged and passed over where
        it lies, as long as there is a bundle that can be read. Otherwise, and at every other fault
        of the system, the OSError is raised, so that nobody takes the run for an empty one.
        """
        found: list[tuple[tuple[object, ...], Bundle | InvalidBundle]] = []
        unreadable = []
        for path in self._candidates(generation):
            try:
                bundle = read_bundle(path)
                if self.kind in (None, bundle.manifest.kind):
                    found.append((newness(path.name, bundle.manifest.labels), bundle))
            except InvalidBundle as error:
                if durable.exists(path):  # else the writer's keep() just removed it
                    found.append((newness(path.name, {}), error))
            except OSError as error:
                self.pass_over(path, error)
                unreadable.append(error)
        if unreadable and not any(isinstance(entry, Bundle) for _, entry in found):
            raise unreadable[0]
        return [entry for _, entry in sorted(found, key=lambda item: item[0], reverse=True)]

    def history(self) -> list[tuple[int, Bundle]]:
        """The bundles of all generations as (generation, bundle), newest first."""
        return [(n, bundle) for n in reversed(self.generations()) for bundle in self.bundles(n)]

    def quarantined(self) -> list[Path]:
        """The quarantined directories of all generations."""
        places = [self.generation_path(n) / QUARANTINE for n in self.generations()]
        found = [path for place in places for path in _entries_of(place)]
        return [path for path in found if durable.is_directory(path)]

    def newest_valid(self, quarantine: bool, threads: int | None = None) -> Bundle | None:
        """The newest bundle of the present generation that passes the full check; None without one.

        A bundle that fails is logged and, if `quarantine` is set, moved aside with the reason
        (never deleted). Where it cannot be moved (a read-only volume) it is skipped all the same.
        One on a bad sector is skipped too, but stays where it is; without any other bundle, and at
        every other fault of the system, the OSError is raised. Older generations are not searched:
        a restore left them behind on purpose.
        """
        for found in self.scan():
            try:
                return verify(found.path, threads=threads)
            except InvalidBundle as error:
                if durable.exists(found.path):  # else the writer's keep() just removed it
                    logger.warning("%s", error)
                    logger.warning("%s", self.set_aside(error, quarantine))
            except OSError as error:
                self.pass_over(found.path, error)
        self.raise_unreadable()
        return None

    def set_aside(self, error: InvalidBundle, move: bool = True) -> str:
        """Use this bundle no more, and quarantine it if `move`; return what was done, for a log."""
        self._failed[error.path] = error
        if not move:
            return "it stays where it is and is not used"
        try:
            return f"moved it to '{quarantine(error.path, str(error))}'"
        except OSError as refused:
            return f"could not move it aside ({refused}): it stays and is not used"

    def pass_over(self, path: Path, error: OSError) -> None:
        """Use this bundle no more, but leave it as it is: a fault of the system hides its state.

        Raises the error again unless it is one that leaves other bundles readable: a bad sector.
        """
        if error.errno not in durable.UNREADABLE:
            raise error
        if path not in self.unreadable:
            self.unreadable[path] = error
            logger.warning(
                "could not read bundle '%s' (%s): passed over; it stays where it is", path, error
            )

    def usable(self, path: Path) -> bool:
        """Whether this bundle was neither set aside nor passed over by this object."""
        return path not in self._failed and path not in self.unreadable

    def raise_unreadable(self) -> None:
        """Raise the OSError of a bundle of the present generation that was passed over, if any.

        For who found no valid bundle: it cannot be said that there is none.
        """
        for path, error in self.unreadable.items():
            if path.parent == self.generation_path(self.present() or 1):
                raise error

    def has_bad(self) -> bool:
        """Whether the run has state that newest_valid() cannot use.

        That is: a bundle that is damaged, unreadable, quarantined or found bad by this object, or
        bundles in an older generation while the present one has none. When newest_valid() is None,
        this tells "only bad bundles" from "no bundle at all", so that no run restarts at step 0 by
        accident.
        """
        if self._failed or self.quarantined():
            return True
        generations = self.generations()
        try:
            if any(self.damaged(n) for n in generations):
                return True
            return not self.bundles() and any(self.bundles(n) for n in generations)
        except OSError as error:
            if error.errno not in durable.UNREADABLE:
                raise
            return True

    def keep(self, count: int, dry_run: bool = False) -> list[Path]:
        """Remove all but the newest `count` valid bundles of the run; return the removed ones.

        Ordered by (generation, step), so older generations empty as the present one fills. Valid
        means that the quick check passes and that no full check by this object failed. `count` is
        at least 1, so the last valid bundle always stays. So does the last good one: the newest
        marked `healthy`, or without such a mark the newest that is not marked as bad. Pinned
        bundles stay, and invalid ones for inspection. A crash leaves no partial bundle. What cannot
        be read or removed because of a fault of the system is logged and stays too: this never
        raises OSError for a bundle. `dry_run` removes nothing.
        """
        if count < 1:
            raise UsageError(f"cannot keep {count} bundles: keep at least 1")
        valid = list(self._valid_history())
        good = last_good(valid, lambda found: is_healthy(found[1].manifest.labels))
        removed = []
        for generation, bundle in [found for found in valid[count:] if found is not good]:
            try:
                if durable.exists(self._pin(generation, bundle.name)):
                    continue
                if not dry_run:
                    durable.remove_tree(bundle.path)
                removed.append(bundle.path)
            except OSError as error:
                logger.warning("could not remove bundle '%s' (%s): it stays", bundle.path, error)
        return removed

    def pin(self, name: str, generation: int | None = None) -> None:
        """Protect a bundle from `keep`: the newest with this name, or the one in `generation`."""
        for number, bundle in self.history():
            if bundle.name == name and generation in (None, number):
                pin = self._pin(number, name)
                durable.make_directories(pin.parent)
                durable.write_durably(pin, b"")
                return
        raise UsageError(f"run '{self.run}' has no bundle '{name}' to pin: see `holdfast list`")

    def unpin(self, name: str, generation: int | None = None) -> None:
        """Remove the pin, in all generations or in one."""
        pins = [pin for pin in self.pins() if pin[1] == name and generation in (None, pin[0])]
        if not pins:
            raise UsageError(f"run '{self.run}' has no pinned bundle '{name}': see `holdfast list`")
        for number, _ in pins:
            self._pin(number, name).unlink(missing_ok=True)
            durable.fsync_directory(self._pin(number, name).parent)

    def pins(self) -> frozenset[tuple[int, str]]:
        """The pinned bundles as (generation, name)."""
        return frozenset(
            (number, pin.name)
            for number in self.generations()
            for pin in _entries_of(self.generation_path(number) / PINS)
            if not pin.name.startswith(".")
        )

    def sweep(self) -> list[Path]:
        """Remove the leftovers of killed writers (`.tmp-…`); return what was removed.

        Only the run's single writer may call this, while it writes nothing. Restores in progress
        (`.stage-…`, `.pull-…`) are not touched. What cannot be removed now, such as a file that NFS
        keeps for a reader, is logged and left: this never raises OSError for a leftover.
        """
        directories = [self.run_path]
        for number in self.generations():
            path = self.generation_path(number)
            inside = (path / PINS, path / QUARANTINE)
            directories += [path, *(each for each in inside if durable.is_directory(each))]
        return [gone for path in directories for gone in durable.sweep_temporaries(path)]

    def free(self) -> int:
        """The free space of the volume in bytes."""
        return shutil.disk_usage(self.root).free

    def _candidates(self, generation: int | None) -> list[Path]:
        """The paths that could be bundles, in no order: not hidden, and not plain files."""
        number = self.present() if generation is None else generation
        path = None if number is None else self.generation_path(number)
        if path is None or not durable.is_directory(path):
            return []
        found = [entry for entry in durable.entries(path) if not entry.name.startswith(".")]
        return [entry for entry in found if durable.is_directory(entry) or entry.is_symlink()]

    def _valid_history(self) -> Iterator[tuple[int, Bundle]]:
        """`history`, without what fails the quick check or cannot be read."""
        for number in reversed(self.generations()):
            try:
                found = self.bundles(number)
            except OSError as error:
                logger.warning(
                    "could not read generation %d (%s): it stays as it is", number, error
                )
                continue
            for bundle in found:
                try:
                    if self._passes_quick_check(bundle.path):
                        yield number, bundle
                except OSError as error:
                    logger.warning("could not check bundle '%s' (%s): it stays", bundle.path, error)

    def _passes_quick_check(self, path: Path) -> bool:
        if not self.usable(path):
            return False
        try:
            verify(path, quick=True)
        except InvalidBundle:
            return False
        return True

    def _pin(self, generation: int, name: str) -> Path:
        return self.generation_path(generation) / PINS / name


def _entries_of(directory: Path) -> list[Path]:
    """What lies in one of our own directories; nothing where it is missing, or a link."""
    return durable.entries(directory) if durable.is_directory(directory) else []

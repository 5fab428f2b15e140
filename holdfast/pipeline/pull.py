"""Restore a snapshot of a pipeline: the artifacts first, then the database in one transaction.

Nothing changes before everything is verified and fits. The database changes last, as a whole or not
at all: until then whoever uses it sees what was there, and nothing that it mentions has been lost.
Its transaction begins while the snapshot is verified, since putting the rows in takes longest, and
is committed when the artifacts are there. What is replaced is kept: the schema under another name,
files below ``.holdfast-before-<ID>/``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from holdfast.copies.transfer import each_file
from holdfast.errors import HoldfastError, Mismatch
from holdfast.failpoint import failpoint
from holdfast.pipeline import versions
from holdfast.pipeline.artifact_list import Entry
from holdfast.pipeline.artifacts import Artifacts, DirectoryArtifacts
from holdfast.pipeline.database import BEFORE, Database, Restoring
from holdfast.pipeline.database import State as DatabaseState
from holdfast.pipeline.state import DUMP, State
from holdfast.pipeline.verify import Examination, problem_of, verify
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import Catalog
from holdfast.text import plural

_SHOWN = 5
#: seconds between two reports of how much of the dump the database has taken
_TELL_SECONDS = 0.5


class PullRefused(HoldfastError):
    """The snapshot does not fit, or something would be replaced. Nothing was changed."""


@dataclass
class Pulled:
    """What a restore did. ``kept_schema`` and ``kept_files`` say where the state before is."""

    snapshot: Snapshot
    restored: list[str] = field(default_factory=list)
    equal: int = 0
    aside: list[str] = field(default_factory=list)
    bytes: int = 0
    kept_schema: str = ""
    kept_files: str = ""
    notes: list[str] = field(default_factory=list)
    verified: Examination | None = None


def pull(
    database: Database,
    artifacts: Artifacts,
    catalog: Catalog,
    snapshot: Snapshot,
    *,
    replace: bool = False,
    accept: Collection[str] = (),
    patience: float = 30.0,
    progress: Progress = SILENT,
) -> Pulled:
    """Put the snapshot's artifacts and database in place of what is there.

    Args:
        replace: a database with something in it, and artifacts with other bytes, are set aside;
            without, they are refused.
        accept: what may differ from the snapshot: ``mlflow``, ``key``.
        patience: seconds to wait for others to leave the database.

    Raises:
        PullRefused: nothing was changed.
        Mismatch: the snapshot is damaged; nothing was changed.
        DatabaseError: the database is as it was; artifacts may have been restored already.
    """
    return _Pull(database, artifacts, catalog, snapshot, replace, progress).run(accept, patience)


class _Pull:
    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        catalog: Catalog,
        snapshot: Snapshot,
        replace: bool,
        progress: Progress,
    ) -> None:
        self.database, self.artifacts, self.catalog = database, artifacts, catalog
        self.snapshot, self.replace, self.progress = snapshot, replace, progress
        self.state = State.of(snapshot)
        self.report = Pulled(snapshot)

    def run(self, accept: Collection[str], patience: float) -> Pulled:
        there = self.database.state()
        self._check_fit(there, accept)
        if self._wait_alone(patience):  # they may have written meanwhile
            there = self.database.state()
            self._check_empty(there)
        with self._restoring(there) as restoring:
            self._verify()
            restoring.wait(0)
            missing, different = self._compare()
            self._check_replaceable(different)
            failpoint("pipeline.verified")
            self._restore_artifacts(missing, different)
            failpoint("pipeline.artifacts-restored")
            self._commit(restoring)
        return self.report

    def _check_fit(self, there: DatabaseState, accept: Collection[str]) -> None:
        """Everything that is known before a byte is read."""
        misfits = versions.misfits(self.snapshot.labels, there.major)
        refused = {
            what: reason
            for what, reason in misfits.items()
            if what == "postgresql" or what not in accept
        }
        if refused:
            choices = " ".join(f"--accept {what}" for what in refused if what != "postgresql")
            hint = f" ({choices} restores it all the same)" if choices else ""
            raise PullRefused(
                f"snapshot {self.snapshot.id} does not fit: {'; '.join(refused.values())}{hint}"
            )
        self.report.notes += misfits.values()
        self._check_empty(there)

    def _check_empty(self, there: DatabaseState) -> None:
        if not there.fresh and not self.replace:
            raise PullRefused(
                f"database {self.database.name} is not empty: users have rows in its"
                f" {plural(len(there.tables), 'table')}: give --replace, which keeps them under"
                " another name, or restore into an empty database"
            )

    def _wait_alone(self, patience: float) -> bool:
        """A server that goes on writing would write into what is set aside. Whether one did."""
        end = time.monotonic() + patience
        waited = False
        while others := self.database.others():
            if time.monotonic() > end:
                shown = "; ".join(sorted(set(others))[:_SHOWN])
                raise PullRefused(
                    f"database {self.database.name} is in use by"
                    f" {plural(len(others), 'connection')} ({shown}): stop the tracking server"
                    " first, such as with `kubectl scale --replicas=0`"
                )
            waited = True
            time.sleep(0.2)
        return waited

    def _verify(self) -> None:
        found = verify(self.catalog, self.snapshot, progress=self.progress)
        self.report.verified = found
        if not found.ok:
            problems = [f"{what} {reason}".strip() for what, reason in found.problems.items()]
            shown = "; ".join(problems[:_SHOWN])
            more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise Mismatch(
                f"snapshot {self.snapshot.id} is damaged, and nothing was changed: {shown}{more}:"
                " restore an earlier one, such as with --snapshot before=TIME"
            )

    def _compare(self) -> tuple[list[Entry], list[Entry]]:
        """The artifacts that are not there, and those that are there with other bytes."""
        assert self.report.verified is not None
        entries = self.report.verified.listed.entries
        if isinstance(self.artifacts, DirectoryArtifacts):
            self.artifacts.sweep()
        there = self.artifacts.list().files
        absent = [entry for path, entry in entries.items() if path not in there]
        different: list[Entry] = []
        doubtful = []
        for path, entry in entries.items():
            if (found := there.get(path)) is None:
                continue
            if found.size != entry.size:
                different.append(entry)
            elif not entry.tag or not found.settled or found.tag != entry.tag:
                doubtful.append(entry)
        self.progress.start("compare artifacts", len(doubtful), sum(e.size for e in doubtful))
        adding = threading.Lock()

        def one(entry: Entry, stop: threading.Event) -> None:
            if problem_of(self.artifacts, entry, self.progress):
                with adding:
                    different.append(entry)

        each_file(one, doubtful, self.artifacts.parallel)
        self.report.equal = len(entries) - len(absent) - len(different)
        return absent, different

    def _check_replaceable(self, different: list[Entry]) -> None:
        if different and not self.replace:
            names = sorted(entry.path for entry in different)
            raise PullRefused(
                f"{plural(len(names), 'artifact')} in {self.artifacts.url} would be replaced, such"
                f" as {', '.join(names[:_SHOWN])}: give --replace, which keeps them in"
                f" .holdfast-before-{self.snapshot.id}"
            )

    def _restore_artifacts(self, absent: list[Entry], different: list[Entry]) -> None:
        aside = {entry.path for entry in different}
        todo = [*absent, *different]
        size = sum(entry.size for entry in todo)
        self.progress.start("restore artifacts", len(todo), size)
        counting = threading.Lock()

        def one(entry: Entry, stop: threading.Event) -> None:
            if entry.path in aside:
                self.artifacts.set_aside(entry.path, self.snapshot.id)
            chunks = self.state.artifact(self.catalog, entry, stop, self.progress)
            self.artifacts.write(entry.path, chunks, entry.size)
            failpoint("pipeline.artifact-restored")
            self.progress.file(entry.path)
            with counting:
                self.report.restored.append(entry.path)
                self.report.bytes += entry.size

        each_file(one, todo, min(self.artifacts.parallel, self.catalog.store.parallel))
        self.report.aside = sorted(aside)
        if aside:
            self.report.kept_files = f".holdfast-before-{self.snapshot.id}"

    def _restoring(self, there: DatabaseState) -> AbstractContextManager[Restoring]:
        """The dump on its way into a transaction, which ends with this block."""
        self.report.kept_schema = "" if there.empty else self._schema_name()
        return self.database.restoring(
            self._dump(),
            major=self.state.client,
            aside=self.report.kept_schema,
            drop=there.kept,
        )

    def _dump(self) -> Iterator[bytes | memoryview]:
        """Nothing is asked of the store before the first piece: `_verify` says what is damaged."""
        yield from self.state.dump(self.catalog)

    def _commit(self, restoring: Restoring) -> None:
        size = self.state.database.size
        self.progress.start("restore the database", 1, size)
        told = 0
        while not restoring.wait(_TELL_SECONDS):
            self.progress.advance(restoring.bytes - told)
            told = restoring.bytes
        restoring.commit()
        self.progress.advance(size - told)
        self.progress.file(DUMP)
        self.report.bytes += size

    def _schema_name(self) -> str:
        """A name that the database does not have yet, at most 63 bytes."""
        stem = f"{BEFORE}{self.snapshot.id.replace('-', '_').lower()}"
        return f"{stem}_{int(time.time())}"

"""Save a training as a bundle, while it goes on.

torch.distributed.checkpoint (DCP) plans and writes, on a thread of each rank; the `StorageWriter`
here makes a bundle of it. Each rank hashes and syncs its files and sends the hashes with DCP's own
results; when all have arrived, rank 0 commits. An exception on any rank reaches all through DCP:
the save has failed and the run goes on. A dead or silent rank breaks the group instead, which ends
the process.
"""

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, FileSystem
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future as TorchFuture

from holdfast import durable
from holdfast.bundle import Bundle, BundleWriter
from holdfast.cleanup import Cleanup
from holdfast.failpoint import failpoint
from holdfast.manifest import FileEntry
from holdfast.volume import Volume
from training.ranks import Ranks
from training.state import canonical_pickle, is_finite

METADATA = ".metadata"  # DCP's own index of a checkpoint


class SaveFailed(Exception):
    """Why a save failed, as one string, so that it can travel between ranks."""


class NotFinite(SaveFailed):
    """The state holds NaN or infinity: nobody could train on from it."""


@dataclass(frozen=True)
class Saved:
    """How a save ended. `problem` is None when the bundle is committed.

    It was `refused` when the problem is the state, which is not finite.
    """

    step: int
    seconds: float
    stall: float  # seconds that training waited
    size: int = 0  # bytes, known to rank 0
    digest: str = ""  # of the bundle, known to rank 0
    problem: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class _Shard:
    """Where a rank writes: rank 0 makes the directory and DCP's plan carries it to all ranks."""

    prefix: str
    directory: str


class BundleStorageWriter(dcp.FileSystemWriter):
    """Writes one DCP checkpoint as one bundle. Make a new one for each save."""

    def __init__(
        self,
        parent: Path,
        name: str,
        labels: Mapping[str, str | int],
        stager: "Stager",
        committed: Callable[[Bundle], None],
    ) -> None:
        # One thread: DCP loses exceptions of a second one.
        super().__init__(parent, sync_files=True, thread_count=1)
        self._parent = parent
        self._name = name
        self._labels = labels
        self._stager = stager
        self._committed = committed
        self._writer: BundleWriter | None = None
        self._hashed = _HashingFileSystem()
        self.fs = self._hashed

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        with _as_save_failed():
            if self._stager.problem:
                raise self._stager.problem
            if is_coordinator:
                self._writer = BundleWriter(self._parent, self._name, "checkpoint")
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        directory = str(self._open_writer.path)
        return [
            replace(plan, storage_data=_Shard(f"__{rank}_", directory))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        self.path = Path(plan.storage_data.directory)
        with _as_save_failed(), durable.no_space_named(self.path):
            _refuse_unless_finite(plan, planner)
            results = super().write_data(plan, planner).wait()
            failpoint("save.shard-written")
        for entry in self._hashed.entries:
            results.append(WriteResult(MetadataIndex(f"file {entry.path}"), entry.size, entry))
        done: TorchFuture[list[WriteResult]] = TorchFuture()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        every = [result for of_rank in results for result in of_rank]
        entries = [r.storage_data for r in every if isinstance(r.storage_data, FileEntry)]
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {
            r.index: r.storage_data for r in every if not isinstance(r.storage_data, FileEntry)
        }
        metadata.storage_meta = self.storage_meta()
        data = canonical_pickle(metadata)
        writer = self._open_writer
        with _as_save_failed(), durable.no_space_named(writer.path):
            durable.create_file(writer.path / METADATA, data)
            digest = hashlib.sha256(data).hexdigest()
            entries.append(FileEntry(path=METADATA, size=len(data), sha256=digest))
            bundle = writer.commit(self._labels, entries)
        self._committed(bundle)

    def storage_meta(self) -> StorageMeta:
        """Empty: DCP puts a random id and the path here, and equal state must give equal bytes."""
        return StorageMeta()

    def abort(self) -> None:
        """Remove what was written of a save that failed."""
        if self._writer is not None:
            self._writer.abort()

    @property
    def _open_writer(self) -> BundleWriter:
        if self._writer is None:
            raise RuntimeError("only the coordinator of a save has a bundle to write")
        return self._writer


class Stager(DefaultStager):
    """Copies the state to host memory, into buffers that are used again by the next save.

    A rank that fails here still takes part in the save, where the failure reaches the others:
    if it did not, they would wait until the group times out.
    """

    def __init__(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        super().__init__(
            StagingOptions(
                use_pinned_memory=gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=gpu,
            )
        )
        self.problem: Exception | None = None

    def stage(self, state_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        self.problem = None
        try:
            return cast(dict[str, Any], super().stage(state_dict, **kwargs))
        except Exception as error:
            self.problem = error
            return {}


@dataclass
class _InFlight:
    step: int
    started: float
    stall: float
    writer: BundleStorageWriter
    future: Future[Any]
    ended: float = 0.0


class Saver:
    """At most one save at a time. All ranks must call `begin` at the same steps.

    `saved_step` is the step of the newest bundle that is known to be committed; they are in
    `parent`.
    """

    def __init__(self, volume: Volume, generation: int, ranks: Ranks, keep: int) -> None:
        self.cleanup = Cleanup(volume, keep)
        self.parent = volume.generation_path(generation)
        self._ranks = ranks
        self._stager = Stager(ranks.device)
        self._flight: _InFlight | None = None
        self._size, self._digest = 0, ""
        self.saved_step: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is in flight, or its removal of older bundles is not yet complete."""
        return self._flight is not None or self.cleanup.busy

    def begin(self, step: int, state: dict[str, Any], labels: Mapping[str, str | int]) -> None:
        """Copy the state; from the return on it may change. The rest happens in the background."""
        started = time.monotonic()
        if self._flight is not None:
            raise RuntimeError(f"save of step {step} while step {self._flight.step} is in flight")
        name = f"step-{step:08d}"
        writer = BundleStorageWriter(self.parent, name, labels, self._stager, self._committed)
        future = dcp.async_save(
            state,
            storage_writer=writer,
            process_group=self._ranks.saves,
            async_stager=self._stager,
        )
        flight = _InFlight(
            step, started, time.monotonic() - started, writer, cast(Future[Any], future)
        )
        flight.future.add_done_callback(lambda _: setattr(flight, "ended", time.monotonic()))
        self._flight = flight

    def poll(self) -> Saved | None:
        """How the save in flight ended, once it has; never waits."""
        if self._flight is None or not self._flight.future.done():
            return None
        return self.wait()

    def wait(self) -> Saved | None:
        """Wait for the save in flight, if there is one. Raises when a rank is gone."""
        if self._flight is None:
            return None
        flight, self._flight = self._flight, None
        problem = flight.future.exception()
        seconds = (flight.ended or time.monotonic()) - flight.started
        if problem is None:
            self.saved_step = flight.step
            return Saved(flight.step, seconds, flight.stall, self._size, self._digest)
        if not isinstance(problem, CheckpointException):
            raise problem  # the group is broken: a rank is dead or silent
        flight.writer.abort()
        refused = any(isinstance(error, NotFinite) for error, _ in problem.failures.values())
        return Saved(flight.step, seconds, flight.stall, problem=_reason(problem), refused=refused)

    def _committed(self, bundle: Bundle) -> None:
        """On rank 0's writing thread."""
        self._size, self._digest = bundle.manifest.size, bundle.manifest.digest
        self.cleanup.start()


class _HashingFileSystem(FileSystem):
    """Opens files whose bytes are hashed while they are written."""

    def __init__(self) -> None:
        self.entries: list[FileEntry] = []

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:
        with super().create_stream(path, mode) as raw:
            stream = _HashingStream(raw)
            yield cast(io.IOBase, stream)
        name, digest = Path(path).name, stream.digest.hexdigest()
        self.entries.append(FileEntry(path=name, size=stream.size, sha256=digest))


class _HashingStream:
    """A file that is written from start to end, with the methods that DCP needs."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()
        self.size = 0
        self.flush = raw.flush
        self.fileno = raw.fileno
        self.close = raw.close

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._raw.write(data)
        written = memoryview(data).nbytes
        self.size += written
        return written

    def tell(self) -> int:
        return self.size


@contextmanager
def _as_save_failed() -> Iterator[None]:
    try:
        yield
    except SaveFailed:
        raise
    except Exception as error:
        raise SaveFailed(str(error) or type(error).__name__) from None


def _refuse_unless_finite(plan: SavePlan, planner: SavePlanner) -> None:
    """On the writing thread, on the copy in host memory: training does not wait for it."""
    for item in plan.items:
        data = planner.resolve_data(item) if item.type is not WriteItemType.BYTE_IO else None
        if isinstance(data, torch.Tensor) and not is_finite(data):
            raise NotFinite(f"{item.index.fqn} is not finite")


def _reason(problem: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {error}" for rank, (error, _) in problem.failures.items())

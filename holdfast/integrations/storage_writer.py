"""PyTorch's distributed checkpoint (DCP) as a bundle.

    dcp.save(state, storage_writer=BundleStorageWriter(parent, "step-00000010", {"step": 10}))

DCP plans and writes; each rank hashes and syncs its files and sends the hashes with DCP's own
results. When all have arrived, rank 0 commits. An exception on any rank reaches all of them through
DCP: the save has failed, and nothing of it is visible. `holdfast.integrations.dcp` is what a
training uses; this is the part for code that calls `dcp.save` itself, such as torchtitan.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, FileSystem
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future as TorchFuture

from holdfast import durable
from holdfast.bundle import Bundle, BundleWriter
from holdfast.failpoint import failpoint
from holdfast.manifest import FileEntry

METADATA = ".metadata"  # DCP's own index of a checkpoint


class SaveFailed(Exception):
    """Why a save failed, as one string, so that it can travel between ranks."""


class NotFinite(SaveFailed):
    """The state holds NaN or infinity: nobody could train on from it."""


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


@dataclass(frozen=True)
class _Shard:
    """Where a rank writes: rank 0 makes the directory and DCP's plan carries it to all ranks."""

    prefix: str
    directory: str


class BundleStorageWriter(dcp.FileSystemWriter):
    """Writes one DCP checkpoint as one bundle. Make a new one, on all ranks, for each save.

    Args:
        parent: the directory of the bundle, on a volume that all ranks see; rank 0's is used.
        name: of the bundle, such as `step-00000010`; one that is taken is never replaced.
        labels: of its manifest: `step` at least, so that it can be found as the newest.
        stager: what copies the state for `dcp.async_save`; a failure in it fails the save.
        committed: called on rank 0, on the thread that saves, with the bundle.
        finite: refuse a state that holds NaN or infinity.
    """

    def __init__(
        self,
        parent: Path,
        name: str,
        labels: Mapping[str, str | int],
        *,
        stager: Stager | None = None,
        committed: Callable[[Bundle], None] | None = None,
        finite: bool = False,
    ) -> None:
        # One thread: DCP loses exceptions of a second one.
        super().__init__(parent, sync_files=True, thread_count=1)
        self._parent = parent
        self._name = name
        self._labels = labels
        self._stager = stager
        self._committed = committed
        self._finite = finite
        self._writer: BundleWriter | None = None
        self._hashed = _HashingFileSystem()
        self.fs = self._hashed

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        with _as_save_failed():
            if self._stager and self._stager.problem:
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
            if self._finite:
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
        if self._committed:
            self._committed(bundle)

    def storage_meta(self) -> StorageMeta:
        """Empty: DCP puts a random id and the path here, and equal state must give equal bytes."""
        return StorageMeta()

    def abort(self) -> None:
        """Remove what was written of a save that failed. Without it, the next start does."""
        if self._writer is not None:
            self._writer.abort()

    @property
    def _open_writer(self) -> BundleWriter:
        if self._writer is None:
            raise RuntimeError("only the coordinator of a save has a bundle to write")
        return self._writer


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether it holds neither NaN nor infinity; of a sharded one, this rank's shard."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return not local.is_floating_point() or bool(torch.isfinite(local).all())


def canonical_pickle(value: Any) -> bytes:
    """Equal values give equal bytes.

    A plain pickle also records which of its parts are one and the same object, and that differs
    between a process that made a value and one that loaded it.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


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

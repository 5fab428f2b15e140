"""The processes that train together, as the framework has set them up."""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from holdfast.bundle import Bundle, check_files
from holdfast.manifest import FileEntry

T = TypeVar("T")

#: how long the others wait for rank 0 to commit, or for a rank that still writes
PATIENCE = timedelta(hours=1)
#: for threads that wait for the interpreter, on a busy machine too
_DROP_SECONDS = 0.25


class Ranks:
    """All ranks of `torch.distributed`, or this process alone where it is not in use.

    Frameworks join their ranks late, some while training begins, so this looks at each call. It
    talks on a gloo group of its own: a group that two threads use at once mixes up their messages,
    and on NCCL each question would wait for the GPU. Methods other than properties are
    *collective*: all ranks call them, in the same order.
    """

    def __init__(self, group: Any = None) -> None:
        """`group`, on gloo and used by nothing else, is taken instead of one of its own."""
        self._given = group
        self._world: Any = None
        self._group: Any = None

    @property
    def size(self) -> int:
        dist = _distributed()
        return dist.get_world_size() if dist else 1

    @property
    def rank(self) -> int:
        dist = _distributed()
        return dist.get_rank() if dist else int(os.environ.get("RANK", "0"))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes manifests and decides for all."""
        return self.rank == 0

    def any(self, mine: bool) -> bool:
        """Whether it is true on at least one rank."""
        dist = _distributed()
        if dist is None:
            return mine
        import torch

        vote = torch.tensor([int(mine)])
        dist.all_reduce(vote, op=dist.ReduceOp.MAX, group=self._own_group(dist))
        return bool(vote.item())

    def gather(self, mine: T) -> list[T]:
        """The values of all ranks, in the order of ranks, on every rank. Also a barrier."""
        dist = _distributed()
        if dist is None:
            return [mine]
        found: list[T] = [mine] * self.size
        dist.all_gather_object(found, mine, group=self._own_group(dist))
        return found

    def from_first(self, decide: Callable[[], T]) -> T:
        """What rank 0 decides, on all ranks; an exception on rank 0 is raised on all."""
        dist = _distributed()
        if dist is None:
            return decide()
        return from_rank0(dist, self._own_group(dist), decide)

    def _own_group(self, dist: Any) -> Any:
        _let_threads_drop_at_exit()
        if self._given is not None:
            return self._given
        if self._world is not dist.group.WORLD:
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._world = dist.group.WORLD
        return self._group


def leave_at_exit() -> None:
    """Leave the process groups before the interpreter ends, unless the program has left them.

    This joins their threads. Called where a training ends in order: after a failure a peer may
    never answer.
    """
    if _distributed():
        atexit.register(_leave)


def _leave() -> None:
    if dist := _distributed():
        dist.destroy_process_group()


@cache
def _let_threads_drop_at_exit() -> None:
    """Let the threads of gloo drop what they hold before the interpreter ends, however it ends.

    Such a thread drops the tensors of its last collective when it gets the interpreter. If that
    ends first, the process aborts (SIGABRT), and the exit code that the Job goes by is lost
    (https://github.com/pytorch/pytorch/issues/190489). Nothing tells when the thread is done: it is
    joined with its group, but after a failure that may wait for a peer for ever, and a model in DDP
    holds its group to the end.
    """
    atexit.register(time.sleep, _DROP_SECONDS)


def _distributed() -> Any:
    """`torch.distributed` once its ranks are joined. A framework without PyTorch has none."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_available() and dist.is_initialized() else None


def from_rank0(dist: Any, group: Any, decide: Callable[[], T]) -> T:
    """What rank 0 decides, on all ranks of a group; an exception on rank 0 is raised on all.

    Args:
        dist: `torch.distributed`, which only its caller imports.
        group: a process group of the world, on gloo.
    """
    answer: list[tuple[T | None, Exception | None]] = [(None, None)]
    if dist.get_rank() == 0:
        try:
            answer = [(decide(), None)]
        except Exception as error:
            answer = [(None, _portable(error))]
    dist.broadcast_object_list(answer, src=0, group=group)
    value, failure = answer[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def split_files(files: Sequence[FileEntry], ranks: int) -> list[list[FileEntry]]:
    """The files divided among ranks so that each has about as many bytes to hash."""
    parts: list[list[FileEntry]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for entry in sorted(files, key=lambda entry: entry.size, reverse=True):
        lightest = loads.index(min(loads))
        parts[lightest].append(entry)
        loads[lightest] += entry.size
    return parts


def check_share(bundle: Bundle, mine: Sequence[FileEntry]) -> tuple[list[str], OSError | None]:
    """What is wrong with one rank's share of a bundle's files, and the fault of the system that
    kept them from being read.

    A rank that raises here would leave the others waiting for its part.
    """
    try:
        return check_files(bundle.path, mine), None
    except OSError as error:
        return [], error


def _portable(error: Exception) -> Exception:
    """The error if it can travel to the other ranks, else a plain one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error

"""PyTorch's distributed checkpoint (DCP): saves in the background that are bundles.

    checkpoints = Checkpoints()      # after init_process_group, if there are several ranks
    step = checkpoints.load(state)   # instead of dcp.load(state, checkpoint_id=…)
    …
    checkpoints.save(state, step)    # instead of dcp.save(state, checkpoint_id=…)
    …
    checkpoints.end(stopped)

`docs/frameworks/dcp.md` says what this guarantees, and how torchtitan takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan

from holdfast.bundle import Bundle
from holdfast.cleanup import Cleanup
from holdfast.errors import HoldfastError
from holdfast.integrations.ranks import PATIENCE
from holdfast.integrations.run import Run, exit_codes
from holdfast.integrations.storage_writer import BundleStorageWriter, NotFinite, Stager


class Checkpoints:
    """The bundles of one training that saves with DCP, for all of its ranks.

    The constructor looks for the newest bundle. Make it after `init_process_group`; without one
    this process is alone. Every method is called on all ranks, in the same order.
    """

    def __init__(
        self,
        volume: Path | str | None = None,
        run: str | None = None,
        keep: int | None = None,
    ) -> None:
        """Where `volume`, `run` and `keep` are not given, HOLDFAST_VOLUME, HOLDFAST_RUN and
        HOLDFAST_KEEP say them. Ends the process with exit code 76 where a person has to look.
        """
        with exit_codes():
            self._run = Run(volume, run, keep, framework=f"torch {torch.__version__}")
            #: what training goes on from; None is step 0
            self.newest = self._run.resume()
            self._run.stop.begin()
        #: where the bundles are made
        self.parent = self._run.parent
        joined = dist.is_available() and dist.is_initialized()
        group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if joined else None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._saver = Saver(
            self.parent, self._run.cleanup, group, device, committed=self._run.remember
        )

    def load(self, state: dict[str, Any], *, partial: bool = False) -> int:
        """Load the newest bundle into `state`, as `dcp.load` does; returns its step, 0 if none.

        What the bundle holds and no rank asks for is an error, since a training would go on from
        half of its state; `partial` allows it. Ends the process with exit code 1 where it fails.
        """
        if self.newest is None:
            return 0
        with exit_codes():
            try:
                dcp.load(
                    state,
                    storage_reader=dcp.FileSystemReader(self.newest.path),
                    planner=DefaultLoadPlanner() if partial else _AllOfIt(),
                    process_group=self._saver.group,
                )
            except CheckpointException as problem:
                raise HoldfastError(
                    f"bundle {self.newest.name} does not fit the state: {reasons(problem)}"
                ) from problem
        return self.newest.step or 0

    def save(
        self,
        state: dict[str, Any],
        step: int,
        labels: Mapping[str, str | int] | None = None,
    ) -> None:
        """Copy the state and write it in the background; from the return on it may change.

        Waits for the save before this one. One that failed is said, and the training goes on. Ends
        the process with exit code 1 if a restore made another generation the present one.
        """
        self.wait()
        with exit_codes():
            self._run.require_present()
        self._saver.begin(step, state, self._run.labels(step, labels))

    def wait(self) -> bool:
        """Wait for the save in flight. Returns whether the newest save is committed."""
        saved = self._saver.wait()
        if saved is None:
            return self._run.problem is None
        return self._run.settle(saved.step, lambda: saved.problem)

    def stop_agreed(self) -> bool:
        """Whether any rank got SIGTERM; the same answer on all. Ask once for each step."""
        return self._run.stop_agreed()

    def end(self, stopped: bool = False) -> None:
        """Call it last: waits for the save in flight. Ends the process with 75 if `stopped`."""
        self.wait()
        with exit_codes():
            self._run.end(stopped)


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

    def __init__(
        self,
        parent: Path,
        cleanup: Cleanup,
        group: dist.ProcessGroup | None,
        device: torch.device,
        *,
        committed: Callable[[Bundle], None] | None = None,
        finite: bool = False,
    ) -> None:
        """`group` belongs to the thread that saves: two on one group mix up their messages.

        Args:
            group: on gloo; None where this process is alone.
            committed: called on rank 0, on the thread that saves, with each bundle.
            finite: refuse a state that holds NaN or infinity.
        """
        self.parent = parent
        self.cleanup = cleanup
        self.group = group
        self.saved_step: int | None = None
        self._stager = Stager(device)
        self._then = committed
        self._finite = finite
        self._flight: _InFlight | None = None
        self._size, self._digest = 0, ""

    @property
    def busy(self) -> bool:
        """Whether a save is in flight, or its removal of older bundles is not yet complete."""
        return self._flight is not None or self.cleanup.busy

    def begin(self, step: int, state: dict[str, Any], labels: Mapping[str, str | int]) -> None:
        """Copy the state; from the return on it may change. The rest happens in the background."""
        started = time.monotonic()
        if self._flight is not None:
            raise RuntimeError(f"save of step {step} while step {self._flight.step} is in flight")
        writer = BundleStorageWriter(
            self.parent,
            f"step-{step:08d}",
            labels,
            stager=self._stager,
            committed=self._committed,
            finite=self._finite,
        )
        future = dcp.async_save(
            state, storage_writer=writer, process_group=self.group, async_stager=self._stager
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
        return Saved(flight.step, seconds, flight.stall, problem=reasons(problem), refused=refused)

    def _committed(self, bundle: Bundle) -> None:
        """On rank 0's writing thread."""
        self._size, self._digest = bundle.manifest.size, bundle.manifest.digest
        if self._then:
            self._then(bundle)
        self.cleanup.start()


class _AllOfIt(DefaultLoadPlanner):
    """Refuses a load that leaves out some of what the checkpoint holds."""

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        asked = {item.storage_index.fqn for plan in global_plan for item in plan.items}
        held = cast(Metadata, self.metadata).state_dict_metadata
        left = sorted(held.keys() - asked)
        if left:
            raise ValueError(
                f"it holds {left[0]!r} and {len(left) - 1} more keys that the state does not ask"
                " for: take the state of a new optimizer with get_state_dict, which makes all of"
                " its keys, or pass partial=True"
            )
        return super().create_global_plan(global_plan)


def reasons(problem: CheckpointException) -> str:
    """Why a save or a load failed, of all ranks in which it did."""
    return "; ".join(f"rank {rank}: {error}" for rank, (error, _) in problem.failures.items())

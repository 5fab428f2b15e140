"""What the frameworks share: which bundle to go on from, each save, and how the process ends.

A save that fails is said and the training goes on, as a full disk today may be empty tomorrow. But
a process whose last save failed never ends as if all were well.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from holdfast.bundle import Bundle, BundleWriter, commit_directory, verify
from holdfast.cleanup import Cleanup
from holdfast.defaults import KEEP
from holdfast.errors import (
    ExitCode,
    HoldfastError,
    InvalidBundle,
    RecoveryNeeded,
    RecoveryStopped,
    UsageError,
)
from holdfast.integrations.ranks import Ranks, check_share, leave_at_exit, split_files
from holdfast.integrations.stop import StopSignal
from holdfast.labels import is_healthy
from holdfast.printable import printable
from holdfast.recovery.recover import (
    Action,
    Decision,
    Pulled,
    Start,
    VolumeState,
    decide_in_trainer,
    remember,
)
from holdfast.recovery.writers import Writer, void_stages
from holdfast.volume import Volume

#: how long the end of a process waits for the removal of older bundles, in seconds
_CLEANUP_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Run:
    """The bundles of one training, for all of its ranks.

    What is not given comes from the environment that the stack sets: HOLDFAST_VOLUME, HOLDFAST_RUN,
    HOLDFAST_KEEP (newest bundles that stay, default 3), HOLDFAST_START (`auto` or `require`) and
    HOLDFAST_DECISION. Methods are *collective* unless they say otherwise: all ranks call them, in
    the same order. One training at a time writes to a run.
    """

    def __init__(
        self,
        volume: Path | str | None = None,
        run: str | None = None,
        keep: int | None = None,
        *,
        framework: str = "",
        start: Start | str | None = None,
        decision: Path | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Raises UsageError for a value that is missing or invalid. Not collective.

        `framework` says who wrote the files; it becomes a label. `ranks` are those of PyTorch
        unless they are given.
        """
        root = volume or os.environ.get("HOLDFAST_VOLUME")
        name = run or os.environ.get("HOLDFAST_RUN")
        if not root:
            raise UsageError("no volume is named: pass volume=… or set HOLDFAST_VOLUME")
        if not name:
            raise UsageError("no run is named: pass run=… or set HOLDFAST_RUN")
        if not Path(root).is_dir():
            raise UsageError(f"volume '{root}' is not a directory: is it mounted there?")
        self.volume = Volume(Path(root).absolute(), name)
        self.keep = _number("HOLDFAST_KEEP", KEEP) if keep is None else keep
        if self.keep < 1:
            raise UsageError(f"cannot keep {self.keep} bundles: keep at least 1")
        self.ranks = ranks or Ranks()
        self.stop = StopSignal()
        #: the step of the newest bundle that is known to be committed; on all ranks alike
        self.saved_step: int | None = None
        #: why the newest save failed; None if it did not
        self.problem: str | None = None
        self._framework = framework
        self._start = _start(start or os.environ.get("HOLDFAST_START", "auto"))
        told = decision or os.environ.get("HOLDFAST_DECISION")
        self._decision = Path(told) if told else None
        #: removes what is older than the newest `keep`
        self.cleanup = Cleanup(self.volume, self.keep)
        self._generation = 0
        self._writer: Writer | None = None

    def resume(self) -> Bundle | None:
        """The newest bundle of the present generation of which every byte is right.

        None means step 0: the run has no state anywhere. A bad bundle is quarantined and the one
        before is taken. Ranks that are joined share the reading. Raises RecoveryStopped where there
        was state and none can be used: step 0 would bury it. From here on until `end`, or the end
        of the process, no restore can switch the run.
        """
        bundle, reason = self.find()
        self.say(f"{reason}: every byte is verified" if bundle else reason)
        return bundle

    def find(self) -> tuple[Bundle | None, str]:
        """As `resume`, without a word: the bundle, and what to say of it.

        May be called again after `set_aside`.
        """
        if self._writer is None:
            self._writer = Writer(self.volume)
        if self.ranks.first:
            if self._decision is None:  # else the pod's init container did it
                void_stages(self.volume)
            self.volume.sweep()
        bundle = self._newest_valid()
        self._generation = self.ranks.from_first(lambda: self.volume.present() or 1)
        if bundle:
            self.saved_step = bundle.step
            return bundle, f"resuming from {bundle.name}"
        decision = self.ranks.from_first(self._without_a_bundle)
        if decision.decision is Action.STOP:
            raise RecoveryStopped(decision.reason)
        if decision.decision is Action.RETRY:
            raise RecoveryNeeded(decision.reason)
        return None, decision.reason

    def agree_on(self, bundle: Bundle | None) -> None:
        """Raise HoldfastError unless all ranks resume from the same bundle.

        For frameworks whose ranks are not joined yet when they call `resume`.
        """
        digests = self.ranks.gather(bundle.manifest.digest if bundle else None)
        if len(set(digests)) > 1:
            raise HoldfastError(
                "ranks found different bundles to resume from: is the volume shared by all of them?"
            )

    def commit(
        self,
        directory: Path | str,
        step: int,
        *,
        move: bool = True,
        labels: Mapping[str, str | int] | None = None,
    ) -> bool:
        """Make a bundle of a directory that all ranks have finished, or are about to finish.

        With `move` its files become those of the bundle and it is gone afterwards; across file
        systems they are copied. Returns whether it is committed; if not, `problem` says why.
        Raises Superseded if a restore made another generation the present one.
        """
        self.require_present()
        make = partial(
            commit_directory,
            Path(directory),
            self.parent,
            _name(step),
            "checkpoint",
            self.labels(step, labels),
            move=move,
        )
        self.ranks.gather(None)  # every rank has written its files
        return self.settle(step, lambda: self._try(make))

    def save(
        self,
        step: int,
        write: Callable[[Path], object],
        labels: Mapping[str, str | int] | None = None,
    ) -> bool:
        """Call `write` with a directory on all ranks, then make a bundle of what they wrote there.

        The directory is empty, hidden, and on the volume. Returns whether it is committed; if
        `write` raised on any rank, or the commit failed, `problem` says why. Raises Superseded if a
        restore made another generation the present one.
        """
        self.require_present()
        writer: BundleWriter | None = None

        def begin() -> tuple[str, str | None]:
            nonlocal writer
            try:
                writer = BundleWriter(self.parent, _name(step), "checkpoint")
            except (HoldfastError, OSError) as error:
                return "", _text(error)
            return str(writer.path), None

        path, problem = self.ranks.from_first(begin)
        if problem is None:
            problems = self.ranks.gather(_problem_of(partial(write, Path(path))))
            problem = "; ".join(
                f"rank {rank}: {text}" for rank, text in enumerate(problems) if text
            )

        def commit() -> str | None:
            if writer is None:
                return problem
            with writer:
                return problem or self._try(partial(writer.commit, self.labels(step, labels)))

        return self.settle(step, commit)

    def require_present(self) -> None:
        """Raise Superseded, on all ranks, if a restore left this process behind."""
        writer, generation = self._writer, self._generation
        if writer is not None and generation:
            self.ranks.from_first(lambda: writer.require_present(generation))

    def close(self) -> None:
        """Nothing is written any more, so a restore may switch the run. Not collective."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def stop_agreed(self) -> bool:
        """Whether any rank was asked to stop; the same answer on all. Ask once for each step."""
        return self.ranks.any(self.stop.asked)

    def end(self, stopped: bool) -> None:
        """End the training. Raises SystemExit 75 if it was `stopped` and that step is saved.

        Raises HoldfastError (exit code 1) if the newest save failed. Not collective.
        """
        self.stop.end()
        self.cleanup.wait(_CLEANUP_SECONDS, lambda: False)
        self.close()
        if self.problem:
            raise HoldfastError(self.problem)
        leave_at_exit()
        if stopped:
            self.say(f"stopped: step {self.saved_step} is saved")
            raise SystemExit(int(ExitCode.STOPPED))

    def say(self, text: str) -> None:
        """One line on stderr, by rank 0. A log that cannot be written stops nothing."""
        if self.ranks.first:
            with suppress(OSError):
                print(printable(f"holdfast: {text}"), file=sys.stderr, flush=True)

    @property
    def generation(self) -> int:
        """The generation that is trained in. Raises UsageError before `resume`."""
        if not self._generation:
            raise UsageError("nothing may be saved before resume(): call it at the start")
        return self._generation

    @property
    def parent(self) -> Path:
        """Where bundles of this run are made. Raises UsageError before `resume`."""
        return self.volume.generation_path(self.generation)

    def path(self, step: int) -> Path:
        """Where the bundle of a step is, or would be. Raises UsageError before `resume`."""
        return self.parent / _name(step)

    def labels(
        self, step: int, more: Mapping[str, str | int] | None = None
    ) -> Mapping[str, str | int]:
        """What a bundle says of itself. Not collective."""
        own: dict[str, str | int] = {
            "run": self.volume.run,
            "generation": self.generation,
            "step": step,
            "world_size": self.ranks.size,
        }
        if self._framework:
            own["framework"] = self._framework
        return {**(more or {}), **own}

    def remember(self, bundle: Bundle) -> None:
        """On rank 0, once a bundle is committed: from now on this run has a state."""
        remember(self._decision, bundle.name)

    def settle(self, step: int, commit: Callable[[], str | None]) -> bool:
        """End a save by what `commit` does on rank 0: why it failed, or None. Whether it did not.

        For saves that are not made by `commit` or `save`.
        """
        reason = self.ranks.from_first(commit)
        if reason is None:
            self.saved_step, self.problem = step, None
        else:
            self.problem = f"step {step} could not be saved: {reason}"
            self.say(self.problem)
        if self.ranks.first and (kept := self.cleanup.problem()):
            self.say(f"older bundles could not be removed: {kept}")
        return reason is None

    def set_aside(self, damage: InvalidBundle) -> None:
        """On rank 0: quarantine a bundle, so that the one before it is found."""
        # Where ranks are not joined yet, each looks by itself: one of them moves.
        self.say(f"{damage}: {self.volume.set_aside(damage, move=self.ranks.first)}")

    def _try(self, make: Callable[[], Bundle]) -> str | None:
        """On rank 0: make the bundle; return why it failed."""
        try:
            bundle = make()
        except (HoldfastError, OSError) as error:
            return _text(error)
        self.remember(bundle)
        self.cleanup.start()
        return None

    def _newest_valid(self) -> Bundle | None:
        while bundle := self.ranks.from_first(self._newest_complete):
            mine = split_files(bundle.manifest.files, self.ranks.size)
            share = mine[self.ranks.rank if self.ranks.size > 1 else 0]
            found = self.ranks.gather(check_share(bundle, share))
            faults = [fault for _, fault in found if fault]
            problems = [problem for of_rank, _ in found for problem in of_rank]
            if not faults and not problems:
                return bundle
            if faults:
                self.ranks.from_first(partial(self.volume.pass_over, bundle.path, faults[0]))
            else:
                damage = InvalidBundle(bundle.path, problems)
                self.ranks.from_first(partial(self.set_aside, damage))
        return None

    def _newest_complete(self) -> Bundle | None:
        """On rank 0: the newest bundle whose manifest, files and sizes look right."""
        for found in self.volume.scan():
            path = found.path
            if not self.volume.usable(path):
                continue
            if isinstance(found, InvalidBundle):
                self.set_aside(found)
            elif is_healthy(found.manifest.labels) is False:
                self.say(f"{found.name} is marked as not healthy: it is not used")
            else:
                try:
                    return verify(path, quick=True)
                except InvalidBundle as damage:
                    self.set_aside(damage)
                except OSError as fault:
                    self.volume.pass_over(path, fault)
        self.volume.raise_unreadable()
        return None

    def _without_a_bundle(self) -> Decision:
        bad = self.volume.has_bad() or bool(self.volume.bundles())
        state = VolumeState.BAD if bad else VolumeState.NONE
        return decide_in_trainer(state, Pulled.told_by(self._decision), self._start)


@contextmanager
def exit_codes() -> Iterator[None]:
    """For the outermost call of a script: an error of Holdfast ends it with the right exit code.

    74 (another pod has to recover the volume), 75 (saved after a stop) and 76 (a person has to
    look) tell Kubernetes whether to try again, and in which pod.
    """
    try:
        yield
    except HoldfastError as error:
        print(printable(f"holdfast: {error}"), file=sys.stderr, flush=True)
        raise SystemExit(int(error.exit_code)) from error


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _problem_of(work: Callable[[], object]) -> str | None:
    try:
        work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # PyTorch's CheckpointException is no Exception
        logger.exception("a rank could not write its part of a checkpoint")
        return _text(error)
    return None


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{variable}: invalid number {text!r}: use a whole number") from None


def _start(text: str) -> Start:
    try:
        return Start(text)
    except ValueError:
        names = ", ".join(Start)
        raise UsageError(f"invalid start {text!r}: use one of {names}") from None

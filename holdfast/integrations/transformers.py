"""Hugging Face Transformers: every checkpoint of a `Trainer` becomes a bundle.

    from holdfast.integrations.transformers import train

    train(trainer)  # instead of trainer.train()

`docs/frameworks/transformers.md` says what this guarantees.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from holdfast import durable
from holdfast.bundle import Bundle, verify
from holdfast.errors import HoldfastError, UsageError
from holdfast.integrations.run import Run, exit_codes

#: in `output_dir`: says that checkpoints found there at a start are of saves that were interrupted
MARKER = ".holdfast"
#: the label that tells the step of the best bundle so far, for `load_best_model_at_end`
BEST = "best_step"


def train(
    trainer: Trainer,
    volume: Path | str | None = None,
    run: str | None = None,
    keep: int | None = None,
    **arguments: Any,
) -> TrainOutput:
    """`trainer.train(…)` that goes on from the newest bundle and makes bundles of its checkpoints.

    Where `volume`, `run` and `keep` are not given, HOLDFAST_VOLUME, HOLDFAST_RUN and HOLDFAST_KEEP
    say them; `arguments` go to `trainer.train`. After SIGTERM it saves the step it has reached and
    ends the process with exit code 75. Where a person has to look, the exit code is 76. Returns
    when training is complete; if it was so already, no step is trained.
    """
    with exit_codes():
        found = Run(volume, run, keep, framework=f"transformers {transformers.__version__}")
        callback = HoldfastCallback(found)
        callback.prepare(trainer.args)
        bundle = callback.resumed = found.resume()
        trainer.add_callback(callback)
        try:
            output = trainer.train(
                resume_from_checkpoint=str(bundle.path) if bundle else None, **arguments
            )
        except _Complete:
            found.say(f"training is complete: step {trainer.state.global_step} is saved")
            if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
                callback.check_best()
                trainer._load_best_model()
            output = TrainOutput(trainer.state.global_step, float("nan"), {})
        finally:
            trainer.remove_callback(callback)
            found.stop.end()
        found.end(callback.stopped)
    return output


class _Complete(Exception):
    """The bundle that was loaded holds the last step: `Trainer` would train one more."""


class HoldfastCallback(TrainerCallback):
    """Makes a bundle of each checkpoint and stops after a save when SIGTERM came. See `train`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.stopped = False
        #: what training goes on from
        self.resumed: Bundle | None = None
        self._best: int | None = None  # the step of the best bundle, which is pinned

    def prepare(self, args: TrainingArguments) -> None:
        """Refuse what would defeat this callback, and clear what killed saves left behind.

        Collective. Raises UsageError with every problem.
        """
        if problems := _problems(args):
            raise UsageError("; ".join(problems))
        self.run.ranks.from_first(lambda: self._clear(Path(args.output_dir)))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.run.stop.begin()
        best = self.resumed.manifest.labels.get(BEST) if self.resumed else None
        if args.load_best_model_at_end and best is not None:
            if self.run.path(int(best)).is_dir():
                self._take_best(int(best), state)
            else:
                self.run.say(f"step {best}, the best so far, is not on the volume any more")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            raise _Complete

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.run.stop_agreed():
            self.stopped = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.run.saved_step == state.global_step:
            control.should_save = False
        return control

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Each rank comes here when its own part is written, without waiting for the others.
        step = state.global_step
        directory = Path(args.output_dir) / f"checkpoint-{step}"
        is_best = args.load_best_model_at_end and state.best_global_step == step
        best = step if is_best else self._best
        committed = self.run.commit(directory, step, labels={} if best is None else {BEST: best})
        if not committed and self.run.ranks.first:
            durable.discard(directory)  # a disk that is full needs the space for the next one
        if committed and is_best:
            self._take_best(step, state)
        elif is_best:
            state.best_model_checkpoint = None if self._best is None else str(self._best_path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        # The last thing before the best model is loaded.
        if args.load_best_model_at_end and "train_runtime" in (logs or {}):
            self.check_best()

    def check_best(self) -> None:
        """Raise InvalidBundle unless every byte of the best bundle is right. Collective."""
        if self._best is not None:
            self.run.ranks.from_first(lambda: verify(self._best_path).name)

    @property
    def _best_path(self) -> Path:
        return self.run.path(self._best or 0)

    def _take_best(self, step: int, state: TrainerState) -> None:
        """From now on this bundle is the best: `keep` spares it, and it is loaded at the end."""
        before, self._best = self._best, step
        state.best_model_checkpoint = str(self._best_path)
        if self.run.ranks.first:
            try:
                self._move_pin(before)
            except (HoldfastError, OSError) as error:
                self.run.say(f"step {step}, the best so far, could not be pinned: {error}")

    def _move_pin(self, before: int | None) -> None:
        volume, generation = self.run.volume, self.run.generation
        volume.pin(self._best_path.name, generation)
        if before is not None:
            with suppress(UsageError):  # a person has unpinned it
                volume.unpin(self.run.path(before).name, generation)

    def _clear(self, output: Path) -> None:
        """On rank 0: `output_dir` holds no checkpoint when training begins.

        The files of an interrupted save would end up in the next bundle of the same step.
        """
        if output.resolve().is_relative_to(self.run.volume.run_path.resolve()):
            raise UsageError(
                f"output_dir '{output}' lies among the bundles: choose a directory beside the run's"
            )
        durable.make_directories(output)
        found = [path for path in durable.entries(output) if path.name.startswith("checkpoint-")]
        if found and not os.path.lexists(output / MARKER):
            raise UsageError(
                f"output_dir '{output}' holds {found[-1].name}, which was not made under Holdfast:"
                f" move it away, or make a bundle of the one to go on from with `holdfast commit"
                f" DIRECTORY --step N` and move the others"
            )
        durable.write_durably(output / MARKER, f"run {self.run.volume.run}\n".encode())
        for path in found:
            durable.discard(path)


def _problems(args: TrainingArguments) -> list[str]:
    """Every setting that would make bundles that cannot be resumed, or go past the callback."""
    problems = []
    if args.save_only_model:
        problems.append(
            "save_only_model leaves out the optimizer, so no checkpoint can be resumed: set it to"
            " False"
        )
    if args.enable_jit_checkpoint:
        problems.append(
            "enable_jit_checkpoint saves where no callback sees it, and in the middle of a step:"
            " set it to False; SIGTERM is respected without it"
        )
    if args.save_on_each_node:
        problems.append(
            "save_on_each_node lets several nodes write the same files of a shared volume: set it"
            " to False"
        )
    if args.push_to_hub and args.hub_strategy in ("checkpoint", "all_checkpoints"):
        problems.append(
            "hub_strategy 'checkpoint' and 'all_checkpoints' upload a checkpoint while it becomes a"
            " bundle: use 'every_save' or 'end'"
        )
    return problems

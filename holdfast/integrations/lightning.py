"""Lightning: a fit that goes on from the newest bundle and saves bundles.

    from holdfast.integrations.lightning import fit

    fit(trainer, model, loader)  # instead of trainer.fit(model, loader)

`docs/frameworks/lightning.md` says what this guarantees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.utilities import CombinedLoader

from holdfast.bundle import Bundle
from holdfast.errors import UsageError
from holdfast.integrations import generators
from holdfast.integrations.run import Run, exit_codes

#: in a bundle: one file, or the directory of a strategy that shards
CHECKPOINT = "checkpoint"
#: the label of one that was saved between two epochs
EPOCH_END = "epoch_end"


def fit(
    trainer: Trainer,
    model: LightningModule,
    *data: Any,
    every: int,
    volume: Path | str | None = None,
    run: str | None = None,
    keep: int | None = None,
    **arguments: Any,
) -> None:
    """`trainer.fit(model, …)` that goes on from the newest bundle and saves one `every` N steps.

    Where `volume`, `run` and `keep` are not given, HOLDFAST_VOLUME, HOLDFAST_RUN and HOLDFAST_KEEP
    say them; `data` and `arguments` go to `trainer.fit`. After SIGTERM it saves the step it has
    reached and ends the process with exit code 75. Where a person has to look, the exit code is 76.
    Returns when training is complete; the last step is saved too.
    """
    with exit_codes():
        if every < 1:
            raise UsageError(f"cannot save every {every} steps: use 1 or more")
        if "ckpt_path" in arguments:
            raise UsageError("ckpt_path is what the newest bundle is for: leave it out")
        found = Run(volume, run, keep, framework=f"lightning {lightning.__version__}")
        bundle = found.resume()
        callback = HoldfastCheckpoint(found, every, bundle)
        trainer.callbacks.append(callback)
        try:
            path = str(bundle.path / CHECKPOINT) if bundle else None
            trainer.fit(model, *data, ckpt_path=path, **arguments)
        except _Stopped:
            callback.stopped = True
        finally:
            trainer.callbacks.remove(callback)
            found.stop.end()
        found.end(callback.stopped)


class _Stopped(BaseException):
    """Ends a fit on all ranks after the same step. `should_stop` would wait for `min_epochs`."""


class HoldfastCheckpoint(Checkpoint):
    """Saves bundles, also with strategies that shard; stops after a save. See `fit`."""

    def __init__(self, run: Run, every: int, bundle: Bundle | None) -> None:
        self.run = run
        self.stopped = False
        self._every = every
        self._bundle = bundle
        self._generators: dict[str, Any] | None = None
        self._seen = bundle.step if bundle else 0  # the step that was looked at last
        self._due = self._stop = self._between_epochs = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.run.agree_on(self._bundle)  # ranks were not joined when each of them chose

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bundle:
            self._generators = generators.load(self._bundle.path, trainer.global_rank)
            self._between_epochs = bool(self._bundle.manifest.labels.get(EPOCH_END))
        self._restore_before_an_iterator()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Only now: Lightning has set its own handler, which makes a collective call in a signal.
        self.run.stop.begin()
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        if all(hasattr(loader, "state_dict") for loader in loaders):
            self._restore_before_an_iterator()  # loaders with a state have two made for them

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._generators and not self._between_epochs:
            generators.restore(self._generators)
        self._generators = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._seen:  # gradients are still accumulated
            return
        self._seen = step
        self._stop = self.run.stop_agreed()
        self._due = self._due or self._stop or step % self._every == 0
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.run.saved_step != trainer.global_step:
            self._save(trainer)

    def _restore_before_an_iterator(self) -> None:
        """Making an iterator draws from the generators, and so decides on the data of an epoch.

        After a save in the middle of an epoch the draw is over: they are restored behind it.
        """
        if self._generators and self._between_epochs:
            generators.restore(self._generators)

    def _save(self, trainer: Trainer) -> None:
        self._due = False
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self.run.saved_step != trainer.global_step:
            self.run.save(
                trainer.global_step,
                lambda path: _write(trainer, path),
                {EPOCH_END: 1} if last else None,
            )
        if self._stop and not trainer.fit_loop.done:
            raise _Stopped


def _write(trainer: Trainer, path: Path) -> None:
    """This rank's part of a checkpoint."""
    generators.save(path, trainer.global_rank, generators.state())
    before = trainer.strategy.checkpoint_io
    if type(before) in (TorchCheckpointIO, AsyncCheckpointIO):
        trainer.strategy.checkpoint_io = BundleCheckpointIO()
    try:
        trainer.save_checkpoint(path / CHECKPOINT)
    finally:
        trainer.strategy.checkpoint_io = before


class BundleCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint where it belongs, at once.

    The stock one writes it to memory, then to a file in the directory for temporary files, and
    moves that, which across file systems is a copy that a kill can cut short. In a bundle nothing
    is visible before all of it is there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        torch.save(checkpoint, path)

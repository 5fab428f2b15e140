"""Hugging Face Accelerate: a training loop that saves bundles and goes on from the newest.

    training = Training(accelerator, every=100)  # after accelerator.prepare(…)
    for epoch in training.epochs(3):
        for batch in training.batches(loader):
            …
            optimizer.step()
            training.stepped()
    training.end()

`docs/frameworks/accelerate.md` says what this guarantees.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
from accelerate import Accelerator

from holdfast.errors import UsageError
from holdfast.integrations import generators
from holdfast.integrations.run import Run, exit_codes

POSITION = "position.json"
#: in a bundle, beside what Accelerate writes: the generators as they are, and at the epoch's start
NOW, EPOCH = "now", "epoch"


class Training:
    """Where a training is: its optimizer steps, its epoch, and the batches of that it has seen.

    The constructor loads the newest bundle. Make it after `accelerator.prepare`, and keep nothing
    of the loop's state outside of it, the model, the optimizer and what is registered with
    `accelerator.register_for_checkpointing`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        every: int,
        volume: Path | str | None = None,
        run: str | None = None,
        keep: int | None = None,
    ) -> None:
        """Save a bundle `every` N optimizer steps.

        Where `volume`, `run` and `keep` are not given, HOLDFAST_VOLUME, HOLDFAST_RUN and
        HOLDFAST_KEEP say them. Ends the process with exit code 76 where a person has to look.
        """
        self.steps = 0
        self.epoch = 0
        self.batch = 0
        self._accelerator = accelerator
        self._every = every
        self._epoch_start: dict[str, Any] = {}
        self._resumed: tuple[dict[str, Any], dict[str, Any]] | None = None
        with exit_codes():
            if every < 1:
                raise UsageError(f"cannot save every {every} steps: use 1 or more")
            if accelerator.project_configuration.automatic_checkpoint_naming:
                raise UsageError(
                    "automatic_checkpoint_naming saves where Holdfast does not look, and deletes"
                    " before it writes: leave it out"
                )
            if accelerator.use_stateful_dataloader:
                raise UsageError(
                    "use_stateful_dataloader restores where a loader was, and so does"
                    " training.batches: together a resume goes on with other data: leave it out"
                )
            self._run = Run(volume, run, keep, framework=f"accelerate {accelerate.__version__}")
            bundle = self._run.resume()
            if bundle:
                self._load(bundle.path)
            self._run.stop.begin()

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs that are left, beginning with the one that was interrupted."""
        while self.epoch < count:
            yield self.epoch
            self.epoch += 1
            self.batch = 0

    def batches(self, loader: Any) -> Iterator[Any]:
        """The batches of a prepared loader that this epoch has not seen yet, in its order."""
        resumed, self._resumed = self._resumed, None
        if resumed:
            generators.restore(resumed[1])  # making the iterator draws the order from them
        self._epoch_start = generators.state()
        left = self._accelerator.skip_first_batches(loader, self.batch) if self.batch else loader
        for batch in left:
            if resumed:
                generators.restore(resumed[0])
                resumed = None
            self.batch += 1
            yield batch
        if resumed:  # it was saved at the last batch
            generators.restore(resumed[0])

    def stepped(self) -> None:
        """Call it after each `optimizer.step()`: saves when it is time, and after a SIGTERM.

        Then it ends the process with exit code 75. While gradients are accumulated it does nothing.
        """
        if not self._accelerator.sync_gradients:
            return
        self.steps += 1
        stop = self._run.stop_agreed()
        if stop or self.steps % self._every == 0:
            self._run.save(self.steps, self._write)
        if stop:
            with exit_codes():
                self._run.end(stopped=True)

    def end(self) -> None:
        """Call it when training is complete: saves the last step."""
        if self._run.saved_step != self.steps:
            self._run.save(self.steps, self._write)
        with exit_codes():
            self._run.end(stopped=False)

    def _write(self, path: Path) -> None:
        """This rank's part of a checkpoint."""
        self._accelerator.save_state(str(path))
        rank = self._run.ranks.rank
        generators.save(path, rank, generators.state(), NOW)
        generators.save(path, rank, self._epoch_start, EPOCH)
        if self._run.ranks.first:
            position = {"steps": self.steps, "epoch": self.epoch, "batch": self.batch}
            (path / POSITION).write_text(json.dumps(position))

    def _load(self, path: Path) -> None:
        self._accelerator.load_state(str(path))
        position = json.loads((path / POSITION).read_text())
        self.steps, self.epoch, self.batch = (position[key] for key in ("steps", "epoch", "batch"))
        rank = self._run.ranks.rank
        now, start = generators.load(path, rank, NOW), generators.load(path, rank, EPOCH)
        if now and start:
            self._resumed = now, start

"""A `Trainer` that is small: gradient accumulation, dropout, saves in the middle of epochs."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from holdfast.integrations.transformers import train as protected_train
from tests.holdfast.integrations import small
from tests.holdfast.integrations.lab import EVERY, KILLED_STEP, STEPS, Window


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = small.model()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": mse_loss(self.layers(x), labels)}


class Samples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        self._numbers = small.Numbers(12)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x, labels = self._numbers[index]
        return {"x": x, "labels": labels}


class Watched(TrainerCallback):
    """Opens the window before the save of one step; sends SIGTERM in the middle of another."""

    def __init__(self, window: Window, signal_in: int | None) -> None:
        self._window = window
        self._signal_in = signal_in

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == KILLED_STEP:
            self._window.open()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == KILLED_STEP:
            self._window.close()
        if state.global_step + 1 == self._signal_in:
            os.kill(os.getpid(), signal.SIGTERM)


def arguments(folder: Path, **changed: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,  # an epoch has 3: saves are in the middle of epochs and at an end
        "save_steps": EVERY,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_strategy": "no",
    }
    return TrainingArguments(**(settings | changed))


def trainer(folder: Path, window: Window, signal_in: int | None = None, **changed: Any) -> Trainer:
    set_seed(1)
    return Trainer(
        model=Model(),
        args=arguments(folder, **changed),
        train_dataset=Samples(),
        eval_dataset=Samples(),
        callbacks=[Watched(window, signal_in)],
    )


def train(
    folder: Path,
    protected: bool,
    window: Window,
    signal_in: int | None = None,
    **changed: Any,
) -> str:
    made = trainer(folder, window, signal_in, **changed)
    if protected:
        protected_train(made, folder / "volume", "lab")
    else:
        # What the documentation says: True takes the newest, and needs one.
        newest = get_last_checkpoint(folder / "out") if (folder / "out").is_dir() else None
        made.train(resume_from_checkpoint=True if newest else None)
    return small.digest(made.model)

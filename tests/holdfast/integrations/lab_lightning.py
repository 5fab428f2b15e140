"""A small fit: dropout, saves in the middle of epochs, and at their ends."""

import logging
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from holdfast.integrations.lightning import fit
from tests.holdfast.integrations import small
from tests.holdfast.integrations.lab import EVERY, KILLED_STEP, STEPS, Window

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Model(pl.LightningModule):
    def __init__(self, signal_in: int | None) -> None:
        super().__init__()
        self.layers = small.model()
        self._signal_in = signal_in

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.global_step + 1 == self._signal_in:
            os.kill(os.getpid(), signal.SIGTERM)
        x, y = batch
        return mse_loss(self.layers(x), y)

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("loss", mse_loss(self.layers(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Watched(pl.Callback):
    def __init__(self, window: Window) -> None:
        self._window = window

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == KILLED_STEP:
            self._window.open()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == KILLED_STEP:
            self._window.close()


def _loader(stateful: bool, workers: int, changed: dict[str, Any]) -> Any:
    """5 steps an epoch on one rank; on two, each has 3, and a sampler of its own that resumes."""
    kind = StatefulDataLoader if stateful else DataLoader
    settings: dict[str, Any] = {"shuffle": True}
    if "RANK" in os.environ:
        changed["use_distributed_sampler"] = False
        sampler = StatefulDistributedSampler(
            small.Numbers(10), int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]), seed=1
        )
        settings = {"sampler": sampler}
    return kind(small.Numbers(10), batch_size=2, num_workers=workers, **settings)


def train(
    folder: Path,
    protected: bool,
    window: Window,
    signal_in: int | None = None,
    stateful: bool = True,
    workers: int = 0,
    steps: int = STEPS,
    accumulate: int = 1,
    val: bool = False,
    **changed: Any,
) -> str:
    pl.seed_everything(1, verbose=False)
    loader = _loader(stateful, workers, changed)
    loaders = [loader, DataLoader(small.Numbers(4), batch_size=2)] if val else [loader]
    model = Model(signal_in)
    stock = ModelCheckpoint(
        folder / "out", every_n_train_steps=EVERY, save_top_k=1, monitor=None, save_last=True
    )
    changed.setdefault("devices", 1)
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[Watched(window), *([] if protected else [stock])],
        enable_checkpointing=not protected,
        accumulate_grad_batches=accumulate,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **changed,
    )
    if protected:
        fit(trainer, model, *loaders, every=EVERY, volume=folder / "volume", run="lab")
    else:
        trainer.fit(model, *loaders, ckpt_path="last", weights_only=False)
    return small.digest(model)

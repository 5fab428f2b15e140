"""A loop with Accelerate: dropout, accumulation, saves within epochs and at their ends."""

import os
import signal
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from holdfast.integrations.accelerate import Training
from tests.holdfast.integrations import small
from tests.holdfast.integrations.lab import EVERY, KILLED_STEP, Window

EPOCHS = 2  # of 5 steps each


def train(
    folder: Path,
    protected: bool,
    window: Window,
    signal_in: int | None = None,
    accumulate: int = 1,
    workers: int = 0,
    epochs: int = EPOCHS,
    stateful: bool = False,
) -> str:
    set_seed(1)
    loaders = DataLoaderConfiguration(use_stateful_dataloader=stateful)
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=accumulate, dataloader_config=loaders
    )
    model = small.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(small.Numbers(10), batch_size=2, shuffle=True, num_workers=workers)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if not protected:
        return _stock(folder, window, accelerator, model, optimizer, loader)
    training = Training(accelerator, EVERY, folder / "volume", "lab")
    for _ in training.epochs(epochs):
        for x, y in training.batches(loader):
            if training.steps == KILLED_STEP:
                window.close()
            if training.steps + 1 == signal_in:
                os.kill(os.getpid(), signal.SIGTERM)
            with accelerator.accumulate(model):
                accelerator.backward(mse_loss(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            if training.steps + 1 == KILLED_STEP:
                window.open()
            training.stepped()
    training.end()
    return small.digest(accelerator.unwrap_model(model))


def _stock(folder, window, accelerator, model, optimizer, loader) -> str:  # type: ignore[no-untyped-def]
    """As its documentation says: `save_state`, then the newest of `checkpoints` is loaded."""
    (folder / "out").mkdir(exist_ok=True)
    done = [int(path.name.removeprefix("step_")) for path in (folder / "out").iterdir()]
    step = max(done, default=0)
    if done:
        accelerator.load_state(str(folder / "out" / f"step_{step}"))
    for epoch in range(step // 5, EPOCHS):
        left = loader
        if epoch == step // 5 and step % 5:
            left = accelerator.skip_first_batches(loader, step % 5)
        for x, y in left:
            if step == KILLED_STEP:
                window.close()
            accelerator.backward(mse_loss(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == KILLED_STEP:
                window.open()
            if step % EVERY == 0:
                accelerator.save_state(str(folder / "out" / f"step_{step}"))
    return small.digest(accelerator.unwrap_model(model))

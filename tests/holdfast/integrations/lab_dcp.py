"""A loop that saves with DCP: dropout, data by step, two ways to save."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.functional import mse_loss

from holdfast.integrations.dcp import Checkpoints
from tests.holdfast.integrations import small
from tests.holdfast.integrations.lab import EVERY, KILLED_STEP, STEPS, Window


class App:
    """What the tutorial of DCP calls a stateful application, with this rank's generator."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        torch.manual_seed(1 + self.rank)
        self.layers = small.model()
        self.model = self.layers
        if dist.is_initialized():
            self.model = torch.nn.parallel.DistributedDataParallel(self.layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        torch.manual_seed(1 + self.rank)

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        own = {"generator": torch.get_rng_state()}
        return {"model": model, "optimizer": optimizer, f"rank-{self.rank}": own}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=found["model"],
            optim_state_dict=found["optimizer"],
        )
        torch.set_rng_state(found[f"rank-{self.rank}"]["generator"])

    def step(self, number: int) -> None:
        numbers = small.Numbers()
        x, y = zip(*(numbers[(2 * number + n) % 20] for n in range(2)), strict=True)
        mse_loss(self.model(torch.stack(x)), torch.stack(y)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(
    folder: Path,
    protected: bool,
    window: Window,
    signal_in: int | None = None,
    steps: int = STEPS,
) -> str:
    app = App()
    if not protected:
        return _stock(folder, window, app)
    checkpoints = Checkpoints(folder / "volume", "lab")
    step = checkpoints.load({"app": app})
    stop = False
    while step < steps and not stop:
        if step + 1 == signal_in:
            os.kill(os.getpid(), signal.SIGTERM)
        app.step(step)
        step += 1
        stop = checkpoints.stop_agreed()
        if step == KILLED_STEP:
            window.open()
        if stop or step % EVERY == 0:
            checkpoints.save({"app": app}, step)
        if step == KILLED_STEP:
            checkpoints.wait()  # it would go on beside the next step
            window.close()
    checkpoints.end(stop)
    return small.digest(app.layers)


def _stock(folder: Path, window: Window, app: App) -> str:
    """As its tutorial says: a directory for each step, and the highest one is loaded."""
    (folder / "out").mkdir(exist_ok=True)
    done = [int(path.name.removeprefix("step-")) for path in (folder / "out").iterdir()]
    step = max(done, default=0)
    if done:
        dcp.load({"app": app}, checkpoint_id=folder / "out" / f"step-{step}")
    while step < STEPS:
        app.step(step)
        step += 1
        if step == KILLED_STEP:
            window.open()
        if step % EVERY == 0:
            dcp.save({"app": app}, checkpoint_id=folder / "out" / f"step-{step}")
        if step == KILLED_STEP:
            window.close()
    return small.digest(app.layers)

"""torchtitan's own checkpoint manager, with a model and stand-ins for the rest of its trainer.

torchtitan pins libraries that PyTorch 2.15 contradicts, so `make test-frameworks` cannot install
it. What it takes to run this: `docs/frameworks/dcp.md`.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.holdfast.integrations.kills import needs
from tests.holdfast.integrations.trainings import bundles

pytestmark = needs("torchtitan", how="docs/frameworks/dcp.md says how to run these tests")

STEPS = 6


class Optimizers:
    """As torchtitan's container: its state has all keys before the first step."""

    def __init__(self, model: Any) -> None:
        import torch

        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def state_dict(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return get_optimizer_state_dict(self.model, self.optimizer)

    def load_state_dict(self, found: dict[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        set_optimizer_state_dict(self.model, self.optimizer, found)


class Number:
    """A scheduler, a loader: something with one number."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        self.value = found["value"]


@pytest.fixture(autouse=True)
def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One rank, joined as torchtitan's are."""
    import torch.distributed as dist

    monkeypatch.setenv("HOLDFAST_VOLUME", str(folder / "volume"))
    monkeypatch.setenv("HOLDFAST_RUN", "lab")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def train(signal_in: int | None = None, **settings: Any) -> str:
    import torch

    from holdfast.integrations.torchtitan import HoldfastManager
    from tests.holdfast.integrations import small

    model = small.model().eval()
    optimizers, state = Optimizers(model), Number()
    chosen: dict[str, Any] = {"interval": 2} | settings
    config: Any = HoldfastManager.Config(**chosen)
    manager = config.build(
        dataloader=Number(),
        model_parts=[model],
        optimizers=optimizers,
        lr_schedulers=Number(),
        states={"train_state": state},
        sd_adapter=None,
    )
    manager.load(step=-1)
    while state.value < STEPS:
        if state.value + 1 == signal_in:
            os.kill(os.getpid(), signal.SIGTERM)
        x, y = small.Numbers()[state.value]
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizers.optimizer.step()
        optimizers.optimizer.zero_grad()
        state.value += 1
        manager.save(state.value, last_step=state.value == STEPS)
    manager.close()
    return small.digest(model)


def test_a_stop_saves_the_step_and_the_resume_is_bit_identical(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setenv("HOLDFAST_VOLUME", str(tmp_path_factory.mktemp("undisturbed")))
        undisturbed = train()

    with pytest.raises(SystemExit) as end:
        train(signal_in=3)
    assert end.value.code == 75
    assert [bundle.step for bundle in bundles(folder)] == [3, 2]

    assert train() == undisturbed
    assert [bundle.step for bundle in bundles(folder)] == [6, 4, 3]


def test_a_damaged_bundle_is_not_loaded(folder: Path, flip: Any) -> None:
    undisturbed = train()
    flip(bundles(folder)[0].path / "__0_0.distcp")

    assert train() == undisturbed
    assert [bundle.step for bundle in bundles(folder)] == [6, 4, 2]


@pytest.mark.parametrize(
    "setting",
    [
        {"last_save_model_only": True},
        {"async_mode": "async"},
        {"keep_latest_k": 2},
        {"load_step": 4},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_that_defeats_bundles_is_refused(
    setting: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from holdfast.integrations.torchtitan import HoldfastManager

    with pytest.raises(SystemExit) as end:
        HoldfastManager.Config(**setting)
    assert end.value.code == 2
    assert next(iter(setting)) in capsys.readouterr().err

"""PyTorch's distributed checkpoint: what a resume gives, what a kill leaves, what is refused."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.bundle import verify
from tests.holdfast.integrations.kills import play
from tests.holdfast.integrations.lab import Window
from tests.holdfast.integrations.trainings import (
    bundles,
    stopped_in,
    stops_on_two_ranks_and_resumes,
)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch"),
]


@pytest.fixture(scope="module")
def lab() -> Any:
    from tests.holdfast.integrations import lab_dcp

    return lab_dcp


@pytest.fixture(scope="module")
def undisturbed(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return lab.train(tmp_path_factory.mktemp("undisturbed"), False, Window())


@pytest.mark.frameworks
@pytest.mark.slow
def test_after_any_kill_in_a_save_a_loop_goes_on_and_plain_dcp_does_not() -> None:
    stock, protected = play("dcp", "stock", "holdfast")

    assert set(protected) == {"same end"}
    assert sum(count for end, count in stock.items() if end.startswith("failed")) > 0


@pytest.mark.parametrize("step", [1, 2, 5], ids=lambda step: f"step {step}")
def test_sigterm_saves_the_step_and_the_resume_is_bit_identical(
    lab: Any, folder: Path, undisturbed: str, step: int
) -> None:
    stopped_in(lab, folder, step)
    assert bundles(folder)[0].step == step

    assert lab.train(folder, True, Window()) == undisturbed


def test_a_bundle_says_who_wrote_it_and_its_bytes_are_those_that_were_hashed(
    lab: Any, folder: Path
) -> None:
    lab.train(folder, True, Window())

    assert [bundle.step for bundle in bundles(folder)] == [6, 4, 2]
    found = verify(bundles(folder)[0].path).manifest
    assert [entry.path for entry in found.files] == [".metadata", "__0_0.distcp"]
    assert found.labels["framework"].startswith("torch 2")  # type: ignore[union-attr]
    assert found.labels["world_size"] == 1


def linear(seed: int) -> dict[str, Any]:
    """A model, and an optimizer that has made no step: it has no moments yet."""
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Linear(2, 2)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}


def stepped(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    state["model"](torch.ones(2)).sum().backward()
    state["optimizer"].step()
    return state


def test_half_of_a_state_is_not_loaded_and_plain_dcp_loads_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch.distributed.checkpoint as dcp

    from holdfast.integrations.dcp import Checkpoints

    first = Checkpoints(folder / "volume", "lab")
    first.save(stepped(linear(1)), 1)
    first.end()

    stock = linear(2)
    dcp.load(stock, checkpoint_id=bundles(folder)[0].path)
    assert stock["optimizer"].state_dict()["state"] == {}  # its moments are lost, without a word

    second = Checkpoints(folder / "volume", "lab")
    with pytest.raises(SystemExit) as end:
        second.load(linear(2))
    assert end.value.code == 1
    assert "it holds 'optimizer.state.0.exp_avg' and 5 more keys" in capsys.readouterr().err
    assert second.load(linear(2), partial=True) == 1


def test_what_changes_while_a_save_goes_on_is_not_in_it(folder: Path) -> None:
    import torch

    from holdfast.integrations.dcp import Checkpoints

    checkpoints = Checkpoints(folder / "volume", "lab")
    values = torch.arange(100_000.0)
    checkpoints.save({"values": values}, 1)
    values.fill_(-1)
    checkpoints.end()

    assert Checkpoints(folder / "volume", "lab").load({"values": values}) == 1
    assert torch.equal(values, torch.arange(100_000.0))


def test_a_save_that_fails_is_said_and_the_training_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from holdfast.integrations.dcp import Checkpoints

    checkpoints = Checkpoints(folder / "volume", "lab")
    with monkeypatch.context() as patch:
        patch.setenv("HOLDFAST_FAILPOINT", "save.shard-written=enospc")
        checkpoints.save({"step": 1}, 1)
        assert not checkpoints.wait()
    assert "step 1 could not be saved: rank 0: " in capsys.readouterr().err
    checkpoints.save({"step": 2}, 2)
    checkpoints.end()
    assert [bundle.step for bundle in bundles(folder)] == [2]


def test_a_training_whose_last_save_failed_ends_with_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.integrations.dcp import Checkpoints

    checkpoints = Checkpoints(folder / "volume", "lab")
    monkeypatch.setenv("HOLDFAST_FAILPOINT", "save.shard-written=enospc")
    checkpoints.save({"step": 1}, 1)
    with pytest.raises(SystemExit) as end:
        checkpoints.end()
    assert end.value.code == 1


RANK = """
import sys
from pathlib import Path
import torch.distributed as dist
from tests.holdfast.integrations import lab_dcp as lab
from tests.holdfast.integrations.lab import Window
dist.init_process_group("gloo")
term = int(sys.argv[2]) or None
print("END", lab.train(Path(sys.argv[1]), True, Window(), signal_in=term))
"""


@pytest.mark.slow
def test_sigterm_to_one_of_two_ranks_saves_both_and_the_resume_is_bit_identical(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> None:
    other = tmp_path_factory.mktemp("undisturbed")
    files = stops_on_two_ranks_and_resumes(RANK, folder, other, free_port, terminated=3)
    assert files == [".metadata", "__0_0.distcp", "__1_0.distcp"]

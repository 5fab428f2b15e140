"""Lightning, real and small: what a resume gives, and what a kill leaves."""

import importlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.holdfast.integrations.kills import needs, play
from tests.holdfast.integrations.lab import Window
from tests.holdfast.integrations.trainings import bundles, on_two_ranks, stopped_in

pytestmark = needs("lightning")


@pytest.fixture(scope="module")
def lab() -> Any:
    return importlib.import_module("tests.holdfast.integrations.lab_lightning")


@pytest.fixture
def undisturbed(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    def train(**settings: Any) -> str:
        return lab.train(tmp_path_factory.mktemp("undisturbed"), False, Window(), **settings)

    return train


@pytest.mark.slow
def test_after_any_kill_in_a_save_the_end_is_the_same_and_with_stock_lightning_not(
    tmp_path: Path,
) -> None:
    """Temporary files are on another file system than checkpoints, as in a pod with a volume."""
    (elsewhere := Path("/dev/shm") / f"holdfast-{os.getpid()}").mkdir()
    try:
        stock, protected = play(
            "lightning", "stock", "holdfast", TMPDIR=str(elsewhere), LAB_ROOT=str(tmp_path)
        )
    finally:
        subprocess.run(["rm", "-rf", elsewhere], check=True)

    assert set(protected) == {"same end"}
    assert stock["same end"] == 0  # it does not keep the generators of random numbers


# An epoch has 5 steps; with validation there is one at its end.
@pytest.mark.parametrize("val", [False, True], ids=["", "validation"])
@pytest.mark.parametrize("step", [1, 3, 5], ids=lambda step: f"step {step}")
def test_with_a_stateful_loader_a_resume_is_bit_identical_everywhere(
    lab: Any, folder: Path, undisturbed: Callable[..., str], step: int, val: bool
) -> None:
    stopped_in(lab, folder, step, val=val)
    assert bundles(folder)[0].step == step

    assert lab.train(folder, True, Window(), val=val) == undisturbed(val=val)


@pytest.mark.parametrize(("step", "exact"), [(3, False), (5, True)], ids=["middle", "end"])
def test_with_a_plain_loader_it_is_at_the_end_of_an_epoch_only(
    lab: Any, folder: Path, undisturbed: Callable[..., str], step: int, exact: bool
) -> None:
    stopped_in(lab, folder, step, stateful=False)
    end = lab.train(folder, True, Window(), stateful=False)
    assert (end == undisturbed(stateful=False)) is exact


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"workers": 2}], ids=str)
def test_accumulation_and_loader_workers_change_nothing(
    lab: Any, folder: Path, undisturbed: Callable[..., str], settings: dict[str, Any]
) -> None:
    stopped_in(lab, folder, 2, **settings)
    assert lab.train(folder, True, Window(), **settings) == undisturbed(**settings)


def test_the_last_step_is_saved_and_a_complete_training_does_nothing_more(
    lab: Any, folder: Path
) -> None:
    lab.train(folder, True, Window(), steps=5)
    found = [bundle.step for bundle in bundles(folder)]
    assert found == [5, 4, 2]

    lab.train(folder, True, Window(), steps=5)
    assert [bundle.step for bundle in bundles(folder)] == found


def test_a_stop_does_not_wait_for_min_epochs(lab: Any, folder: Path) -> None:
    """`should_stop`, which Lightning offers, does."""
    stopped_in(lab, folder, 2, min_epochs=1)
    assert bundles(folder)[0].step == 2


def test_the_async_plugin_does_not_make_a_bundle_before_its_file_is_written(
    lab: Any, folder: Path, undisturbed: Callable[..., str]
) -> None:
    from lightning.pytorch.plugins.io import AsyncCheckpointIO

    stopped_in(lab, folder, 3, plugins=[AsyncCheckpointIO()])
    assert lab.train(folder, True, Window()) == undisturbed()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"every": 0}, "cannot save every 0 steps"), ({"ckpt_path": "last"}, "leave it out")],
)
def test_what_cannot_work_is_refused(
    settings: dict[str, Any],
    message: str,
    lab: Any,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        lab.fit(None, None, **({"every": 2} | settings), volume=folder / "volume", run="lab")
    assert end.value.code == 2
    assert message in capsys.readouterr().err


RANK = """
import sys
from pathlib import Path
from tests.holdfast.integrations import lab_lightning as lab
from tests.holdfast.integrations.lab import Window
term = int(sys.argv[2]) or None
folder = Path(sys.argv[1])
print("END", lab.train(folder, True, Window(), signal_in=term, devices=2, strategy="ddp"))
"""


def two_ranks(folder: Path, port: int, terminated: int = 0) -> list[tuple[int, str]]:
    return on_two_ranks(RANK, folder, port, terminated, TORCHELASTIC_RUN_ID="lab")


@pytest.mark.slow
def test_sigterm_to_rank_1_alone_saves_both_and_the_resume_is_bit_identical(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> None:
    """With stock Lightning both ranks hang."""
    (other := tmp_path_factory.mktemp("undisturbed")).joinpath("volume").mkdir()
    undisturbed = two_ranks(other, free_port())
    assert [code for code, _ in undisturbed] == [0, 0], undisturbed

    stopped = two_ranks(folder, free_port(), terminated=2)
    assert [code for code, _ in stopped] == [75, 75], stopped
    files = {entry.path for entry in bundles(folder)[0].manifest.files}
    assert files == {"checkpoint", "generators-now-0.pt", "generators-now-1.pt"}

    assert two_ranks(folder, free_port()) == undisturbed

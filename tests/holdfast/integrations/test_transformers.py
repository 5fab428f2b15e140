"""Hugging Face's Trainer, real and small: what a resume gives, and what a kill leaves."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from holdfast.bundle import verify
from holdfast.volume import Volume
from tests.holdfast.integrations.kills import needs, play
from tests.holdfast.integrations.lab import Window
from tests.holdfast.integrations.trainings import bundles, on_two_ranks, stopped_in

pytestmark = needs("transformers")


@pytest.fixture(scope="module")
def lab() -> Any:
    return importlib.import_module("tests.holdfast.integrations.lab_transformers")


@pytest.fixture(scope="module")
def undisturbed(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return lab.train(tmp_path_factory.mktemp("undisturbed"), False, Window())


def steps(folder: Path) -> list[int | None]:
    return [bundle.step for bundle in Volume(folder / "volume", "lab").bundles()]


@pytest.mark.slow
def test_after_any_kill_in_a_save_a_training_goes_on_and_the_stock_trainer_does_not() -> None:
    stock, protected = play("transformers", "stock", "holdfast")

    assert set(protected) == {"same end"}
    assert sum(count for end, count in stock.items() if end.startswith("failed")) > 0


# An epoch has 3 steps of 2 accumulated batches each.
@pytest.mark.parametrize("step", [1, 2, 3, 4], ids=lambda step: f"step {step}")
def test_sigterm_saves_the_step_and_the_resume_is_bit_identical(
    lab: Any, folder: Path, undisturbed: str, step: int
) -> None:
    stopped_in(lab, folder, step)
    assert steps(folder)[0] == step

    assert lab.train(folder, True, Window()) == undisturbed


def test_loader_workers_change_nothing(lab: Any, folder: Path, undisturbed: str) -> None:
    stopped_in(lab, folder, 2, dataloader_num_workers=2)
    assert lab.train(folder, True, Window(), dataloader_num_workers=2) == undisturbed


def test_ignore_data_skip_trains_on_other_data(lab: Any, folder: Path, undisturbed: str) -> None:
    stopped_in(lab, folder, 2, ignore_data_skip=True)
    assert lab.train(folder, True, Window(), ignore_data_skip=True) != undisturbed


def test_saves_at_the_ends_of_epochs_are_bundles_too(
    lab: Any, folder: Path, undisturbed: str
) -> None:
    stopped_in(lab, folder, 3, save_strategy="epoch")  # the stop and the epoch save the same step
    assert steps(folder) == [3]
    assert lab.train(folder, True, Window(), save_strategy="epoch") == undisturbed
    assert steps(folder) == [6, 3]


def test_a_complete_training_that_starts_again_trains_no_step_more(
    lab: Any, folder: Path, undisturbed: str
) -> None:
    lab.train(folder, True, Window(), max_steps=4)
    (first,) = {verify(bundle.path).manifest.digest for bundle in bundles(folder)[:1]}

    ended = lab.trainer(folder, Window(), max_steps=4)
    output = lab.protected_train(ended, folder / "volume", "lab")

    assert output.global_step == 4
    assert steps(folder) == [4, 2]
    assert bundles(folder)[0].manifest.digest == first


def test_save_total_limit_and_keep_do_not_fight(lab: Any, folder: Path) -> None:
    """Rotation finds nothing: a finished checkpoint has left its directory."""
    lab.train(folder, True, Window(), save_total_limit=1)

    assert steps(folder) == [6, 4, 2]
    assert [path.name for path in (folder / "out").iterdir()] == [".holdfast"]


def test_a_checkpoint_that_a_kill_left_half_is_not_mixed_into_a_bundle(
    lab: Any, folder: Path
) -> None:
    lab.train(folder, True, Window(), max_steps=2)
    (half := folder / "out" / "checkpoint-4").mkdir()
    (half / "rng_state_7.pth").write_text("of a rank that is no more")

    lab.train(folder, True, Window(), max_steps=4)

    assert "rng_state_7.pth" not in [entry.path for entry in bundles(folder)[0].manifest.files]


def test_checkpoints_from_before_holdfast_are_not_buried(
    lab: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.train(folder, False, Window())

    with pytest.raises(SystemExit) as end:
        lab.train(folder, True, Window())

    assert end.value.code == 2
    assert "holdfast commit" in capsys.readouterr().err
    assert (folder / "out" / "checkpoint-6" / "trainer_state.json").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"save_only_model": True},
        {"enable_jit_checkpoint": True},
        {"save_on_each_node": True},
        {"push_to_hub": True, "hub_strategy": "checkpoint"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_a_setting_that_defeats_bundles_is_refused(
    setting: dict[str, Any], lab: Any, folder: Path
) -> None:
    from holdfast.errors import UsageError
    from holdfast.integrations.run import Run
    from holdfast.integrations.transformers import HoldfastCallback

    arguments = lab.arguments(folder, **setting)
    name = "hub_strategy" if "hub_strategy" in setting else next(iter(setting))
    with pytest.raises(UsageError, match=name):
        HoldfastCallback(Run(folder / "volume", "lab")).prepare(arguments)


#: Here the loss falls, so that the first checkpoint is the "best".
BEST: dict[str, Any] = {
    "load_best_model_at_end": True,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "greater_is_better": True,
    "metric_for_best_model": "loss",
}


@pytest.mark.parametrize("limit", [None, 1], ids=["", "save_total_limit"])
def test_the_best_model_is_loaded_at_the_end_however_few_bundles_are_kept(
    lab: Any,
    folder: Path,
    undisturbed: str,
    limit: int | None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = BEST | {"save_total_limit": limit}
    best = lab.train(tmp_path_factory.mktemp("stock"), False, Window(), **settings)
    assert best != undisturbed  # which has the last weights

    monkeypatch.setenv("HOLDFAST_KEEP", "1")
    assert lab.train(folder, True, Window(), **settings) == best
    assert steps(folder) == [6, 2]

    assert lab.train(folder, True, Window(), **settings) == best  # it is complete already


def test_the_best_model_of_before_a_stop_is_the_one_that_is_loaded(
    lab: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    best = lab.train(tmp_path_factory.mktemp("stock"), False, Window(), **BEST)

    stopped_in(lab, folder, 3, **BEST)
    assert lab.train(folder, True, Window(), **BEST) == best


def test_a_better_model_takes_the_place_of_the_best(lab: Any, folder: Path) -> None:
    lab.train(folder, True, Window(), **BEST | {"greater_is_better": False})

    assert Volume(folder / "volume", "lab").pins() == {(1, "step-00000006")}


def test_a_best_model_that_is_damaged_is_not_loaded(
    lab: Any, folder: Path, flip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_in(lab, folder, 3, **BEST)
    flip(bundles(folder)[1].path / "model.safetensors")

    with pytest.raises(SystemExit) as end:
        lab.train(folder, True, Window(), **BEST)

    assert end.value.code == 1
    assert "step-00000002" in capsys.readouterr().err
    assert steps(folder)[0] == 6


RANK = """
import sys
from pathlib import Path
from tests.holdfast.integrations import lab_transformers as lab
from tests.holdfast.integrations.lab import Window
term = int(sys.argv[2]) or None
print("END", lab.train(Path(sys.argv[1]), True, Window(), signal_in=term))
"""


def two_ranks(folder: Path, port: int, terminated: int = 0) -> list[tuple[int, str]]:
    return on_two_ranks(RANK, folder, port, terminated)


@pytest.mark.slow
def test_sigterm_to_one_of_two_ranks_saves_both_and_the_resume_is_bit_identical(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, free_port: Any
) -> None:
    (other := tmp_path_factory.mktemp("undisturbed")).joinpath("volume").mkdir()
    undisturbed = two_ranks(other, free_port())

    stopped = two_ranks(folder, free_port(), terminated=2)
    assert [code for code, _ in stopped] == [75, 75], stopped
    files = {entry.path for entry in bundles(folder)[0].manifest.files}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= files

    assert two_ranks(folder, free_port()) == undisturbed
    assert [code for code, _ in undisturbed] == [0, 0]

"""What becomes of each setting after a resume, and of a state that nobody could train on from."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.integrations import storage_writer
from holdfast.volume import Volume
from tests.training.lab import Lab, alone, command, saver_of, until
from training.config import Config
from training.data import Corpus
from training.outcome import Outcome
from training.ranks import Ranks
from training.resume import EFFECTS, Effect, as_label, changes
from training.state import State

pytestmark = pytest.mark.torch

PAGE = Path(__file__).parents[2] / "docs/training.md"

#: Other values than those of the lab, for settings that change the training.
TRAINING: dict[str, Any] = {
    "rate": 1e-4,
    "warmup": 1000,
    "steps": 16,
    "batch": 10,
    "dropout": 0.3,
    "seed": 5,
    "data": "other",
    "parallel": "fsdp",
    "loaders": 1,
}
#: The same for settings that do not. Those of several nodes are compared, and have no effect here.
OPERATION: dict[str, Any] = {
    "keep": 5,
    "save_every": 3,
    "save_minutes": 10.0,
    "save_timeout": 31.0,
    "when_busy": "skip",
    "refused_saves": 4,
    "log_every": 2,
    "timeout": 61.0,
    "max_restarts": 1,
    "rejoin": 3.0,
    "heartbeat": 1,
    "attempts": 6,
    "shutdown_timeout": 50.0,
}
#: Covered by tests of several ranks and nodes, or of no effect on the machine that runs this.
ELSEWHERE = {"ranks", "nodes", "min_nodes", "threads"}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with alone(tmp_path_factory.mktemp("unused")) as ranks:
        yield ranks


def of(effect: Effect) -> set[str]:
    return {setting for setting, known in EFFECTS.items() if known is effect}


def test_it_is_known_of_every_setting_what_it_does_after_a_resume() -> None:
    assert EFFECTS.keys() == Config.model_fields.keys()
    tried = TRAINING.keys() | OPERATION.keys() | ELSEWHERE
    assert tried == of(Effect.TRAINING) | of(Effect.OPERATION)


def test_the_guide_tells_of_every_setting_what_it_does_after_a_resume() -> None:
    told = {
        setting: effect
        for effect in Effect
        for row in re.findall(rf"^\| {effect} \|(.*?)\|", PAGE.read_text(), re.M)
        for setting in re.findall(r"`--([a-z-]+)`", row)
    }

    assert {key.replace("-", "_"): effect for key, effect in told.items()} == EFFECTS


def test_a_setting_that_a_state_cannot_fit_changes_the_shape_of_the_model() -> None:
    small = Config(volume=Path("/v"), heads=1)
    for setting in of(Effect.REFUSED):
        larger = {setting: getattr(small, setting) * 2}
        assert Config(**(small.model_dump() | larger)).shape != small.shape


def test_settings_that_changed_are_named_with_what_they_do() -> None:
    config = Config(volume=Path("/v"))
    labels = as_label(config, "a" * 64)
    other = Config(volume=Path("/w"), rate=0.1, keep=7, run="other")

    found = changes(labels, other, "b" * 64)

    assert [str(change) for change in found or []] == [
        f"data: {'a' * 16} → {'b' * 16}: applies from this step on",
        "keep: 3 → 7: applies",
        "rate: 0.001 → 0.1: applies from this step on",
    ]
    assert changes({}, other, "b" * 64) is None


@pytest.mark.slow
@pytest.mark.parametrize("setting", TRAINING)
def test_a_setting_that_is_changed_at_a_resume_changes_the_training(
    lab: Lab, undisturbed: Lab, tmp_path: Path, setting: str
) -> None:
    value = TRAINING[setting]
    if setting == "data":
        value = tmp_path / value
        value.mkdir()
        (value / "text.txt").write_text("another text " * 4000)
    lab.copy_of(undisturbed, 8)

    assert lab.train(**{setting: value}) is Outcome.DONE

    (resumed,) = lab.events("resume")
    assert [change["setting"] for change in resumed["changes"]] == [setting]
    assert lab.contents()[12 if setting != "steps" else 16] != undisturbed.contents()[12]


@pytest.mark.slow
def test_settings_of_the_operation_apply_after_a_resume_and_change_no_bit(
    lab: Lab, undisturbed: Lab
) -> None:
    lab.copy_of(undisturbed, 8)

    assert lab.train(**OPERATION) is Outcome.DONE

    (resumed,) = lab.events("resume")
    assert {change["setting"] for change in resumed["changes"]} == OPERATION.keys()
    assert resumed["differences"] == []
    assert lab.contents()[12] == undisturbed.contents()[12]
    assert 9 in lab.contents()  # a save every 3


def test_the_rate_of_a_resume_is_that_of_the_settings_at_the_step_of_the_bundle(
    ranks: Ranks, tmp_path: Path, corpus: Path
) -> None:
    volume = Volume(tmp_path, "lab")
    before = state_after(3, config(tmp_path, corpus, rate=1e-3, steps=10), ranks)
    save(volume, ranks, before)

    lowered = config(tmp_path, corpus, rate=1e-5, steps=20, warmup=8)
    resumed = State(lowered, ranks, Corpus(corpus, 32))
    resumed.load(volume.bundles()[0].path, keep_own=True)

    expected = 1e-5 * 4 / 8  # the fourth of eight steps of the warm-up
    (group,) = resumed.optimizer.param_groups
    assert group["lr"] == pytest.approx(expected)
    assert resumed.schedule.get_last_lr() == pytest.approx([expected])
    resumed.begin()
    resumed.train_step()
    assert resumed.schedule.get_last_lr() == pytest.approx([1e-5 * 5 / 8])
    resumed.close()


@pytest.mark.slow
def test_a_training_that_diverges_saves_nothing_more_ends_with_76_and_resumes_with_a_lower_rate(
    lab: Lab, undisturbed: Lab
) -> None:
    lab.copy_of(undisturbed, 4, 8)
    diverging = {"rate": 1e30, "warmup": 0, "steps": 100, "save_every": 1, "keep": 1}

    assert lab.train(**diverging, refused_saves=2) is Outcome.REFUSED

    assert [event["step"] for event in lab.events("save-refused")] == [9, 10]
    assert max(lab.contents()) == 8
    told = "lower the rate and resume; the newest good bundle is step-00000008"
    assert lab.events("refused")[0]["reason"].endswith(told)
    assert None in [event["loss"] for event in lab.events("step")]
    assert lab.train(rate=1e-4) is Outcome.DONE
    assert max(lab.contents()) == 12
    assert all(math.isfinite(event["loss"]) for event in lab.events("step")[-4:])


@pytest.mark.slow
def test_a_last_step_that_is_not_finite_is_not_done(lab: Lab) -> None:
    assert lab.train(rate=1e30, warmup=0, steps=6, save_every=100) is Outcome.REFUSED

    assert lab.contents() == {}
    assert "there is no good bundle" in lab.events("refused")[0]["reason"]


@pytest.mark.slow
def test_a_diverged_training_that_is_stopped_leaves_its_good_bundles(
    lab: Lab, undisturbed: Lab
) -> None:
    lab.copy_of(undisturbed, 8)
    endless = {"rate": 1e30, "warmup": 0, "steps": 100_000, "save_every": 100_000}
    with command(lab, **endless) as process:
        until(lambda: None in [event["loss"] for event in lab.events("step")], process)
        process.terminate()
        assert process.wait(timeout=60) == 75

    assert list(lab.contents()) == [8]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_whatever_the_loss(
    ranks: Ranks, tmp_path: Path, corpus: Path, value: float
) -> None:
    volume = Volume(tmp_path, "lab")
    state = spoiled(state_after(1, config(tmp_path, corpus), ranks), value)

    saver = saver_of(volume, ranks, keep=1)
    saver.begin(1, state.collect(), {"step": 1})
    saved = saver.wait()
    state.close()

    assert saved is not None
    assert saved.refused
    assert re.fullmatch(r"rank 0: model\.\S+ is not finite", saved.problem or "")
    assert list(volume.generation_path(1).iterdir()) == []


@pytest.mark.slow
def test_a_bundle_of_nan_weights_is_quarantined_and_the_one_before_it_is_used(
    lab: Lab, undisturbed: Lab, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.copy_of(undisturbed, 4)
    state = spoiled(state_after(1, config(lab.root, lab.corpus), ranks), math.nan)
    monkeypatch.setattr(storage_writer, "_refuse_unless_finite", lambda *_: None)
    save(lab.volume, ranks, state, step=8)

    assert lab.train() is Outcome.DONE

    assert [event["bundle"] for event in lab.events("quarantine")] == ["step-00000008"]
    assert [event["step"] for event in lab.events("resume")] == [4]
    assert lab.contents() == undisturbed.contents() | {8: lab.contents()[8]}


def config(root: Path, corpus: Path, **changed: Any) -> Config:
    given = {"volume": root, "data": corpus, "preset": "tiny", "loaders": 0}
    return Config.model_validate(given | changed)


def state_after(steps: int, config: Config, ranks: Ranks) -> State:
    state = State(config, ranks, Corpus(config.data, config.block))
    state.begin()
    for _ in range(steps):
        state.train_step()
    return state


def spoiled(state: State, value: float) -> State:
    next(iter(state.model.parameters())).data.view(-1)[0] = value
    return state


def save(volume: Volume, ranks: Ranks, state: State, step: int = 3) -> None:
    labels: dict[str, str | int] = {"step": step, "world_size": 1, "model": state.config.shape}
    saver = saver_of(volume, ranks, keep=9)
    saver.begin(step, state.collect(), labels)
    saved = saver.wait()
    state.close()
    assert saved is not None
    assert saved.problem is None

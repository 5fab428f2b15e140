"""The parts of a training, one at a time and without ranks."""

import json
import pickle
import signal
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from holdfast.bundle import commit_directory
from holdfast.errors import UsageError
from holdfast.integrations.storage_writer import canonical_pickle
from holdfast.recovery.recover import remember
from holdfast.volume import Volume
from training.config import load
from training.crash_loop import CrashLoop, CrashLoopFound
from training.data import Corpus, Order, sample_at
from training.fingerprint import as_labels, differences
from training.metrics import Metrics
from training.outcome import Outcome
from training.stop import SIGNALS, Stop, StopFiles, StopRequested, blocked_signals, forward_stop

pytestmark = pytest.mark.torch


def test_all_ranks_together_consume_the_same_samples_in_the_same_order_whatever_their_number() -> (
    None
):
    alone = consumed(ranks=1, first=0, steps=30)

    assert consumed(ranks=2, first=0, steps=30) == alone
    assert consumed(ranks=4, first=0, steps=30) == alone
    # 16 steps of 2 ranks, then 14 steps of 4: nothing is lost, nothing comes twice.
    assert consumed(2, 0, 16) + consumed(4, 16 * 8, 14) == alone


def test_each_epoch_brings_every_sample_once_in_an_order_of_its_own() -> None:
    first = [sample_at(n, size=50, seed=3) for n in range(50)]
    second = [sample_at(n, size=50, seed=3) for n in range(50, 100)]

    assert Counter(first) == Counter(second) == Counter(range(50))
    assert first != second
    assert first != [sample_at(n, size=50, seed=4) for n in range(50)]


def test_the_corpus_is_the_text_of_a_folder_whatever_its_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "deep").mkdir(parents=True)
        (tmp_path / place / "deep" / "b.txt").write_text("second " * 9)
        (tmp_path / place / "a.md").write_text("first " * 9)
        (tmp_path / place / "picture.png").write_bytes(b"\x89PNG\0\0")
        (tmp_path / place / ".hidden").write_text("never")

    one, two = (Corpus(tmp_path / place, block=8) for place in ("one", "two"))

    assert one.digest == two.digest
    assert one.size == 54 + 1 + 63
    inputs, targets = one[0]
    assert bytes(inputs.tolist()) == b"first fi"
    assert bytes(targets.tolist()) == b"irst fir"


def test_the_corpus_is_this_repositorys_documents_unless_told_otherwise() -> None:
    assert len(Corpus(None, block=128)) > 10


def test_too_little_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short")

    with pytest.raises(UsageError, match=r"holds 5 bytes of text, a sample has 9: give --data"):
        Corpus(tmp_path, block=8)


@pytest.mark.parametrize(("said", "then"), [("fresh", "use"), ("pulled", "pulled")])
def test_after_its_first_save_a_restart_in_the_same_pod_never_begins_again(
    tmp_path: Path, said: str, then: str
) -> None:
    decision = tmp_path / "decision.json"
    decision.write_text(json.dumps({"decision": said}))

    remember(decision, "step-00000012")

    assert json.loads(decision.read_text())["decision"] == then


def test_a_training_without_a_decision_file_makes_none(tmp_path: Path) -> None:
    remember(None, "step-00000012")
    remember(tmp_path / "decision.json", "step-00000012")

    assert list(tmp_path.iterdir()) == []


def test_equal_values_are_equal_bytes_even_where_parts_are_one_object() -> None:
    word = "".join(["sh", "ared"])
    same, apart = [word, word], [word, "".join(["sha", "red"])]
    assert pickle.dumps(same) != pickle.dumps(apart)

    assert canonical_pickle(same) == canonical_pickle(apart)
    assert pickle.loads(canonical_pickle(same)) == apart


def test_starts_without_a_newer_bundle_are_counted_until_one_is_there(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "lab")
    crash_loop = CrashLoop(volume, 4)

    for _ in range(4):
        crash_loop.count_start()
    with pytest.raises(CrashLoopFound, match="4 starts in a row from step 0"):
        crash_loop.count_start()

    commit(volume, tmp_path, 4)
    for _ in range(4):
        crash_loop.count_start()
    with pytest.raises(CrashLoopFound, match="4 starts in a row from step-00000004"):
        crash_loop.count_start()
    crash_loop.reset()
    crash_loop.count_start()


def test_a_start_that_was_stopped_on_purpose_is_not_counted(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "lab")
    CrashLoop(volume, 2).count_start()  # this one crashes

    for _ in range(5):
        drained = CrashLoop(volume, 2)
        drained.count_start()
        drained.forget_start()
        drained.forget_start()

    CrashLoop(volume, 2).count_start()
    with pytest.raises(CrashLoopFound):
        CrashLoop(volume, 2).count_start()


def test_forgetting_a_start_that_was_never_counted_forgets_no_other(tmp_path: Path) -> None:
    volume = Volume(tmp_path, "lab")
    CrashLoop(volume, 1).count_start()

    CrashLoop(volume, 1).forget_start()

    with pytest.raises(CrashLoopFound):
        CrashLoop(volume, 1).count_start()


def commit(volume: Volume, scratch: Path, step: int) -> None:
    (scratch / "weights").mkdir()
    (scratch / "weights" / "w").write_text("w")
    path = volume.generation_path(1)
    name = f"step-{step:08d}"
    commit_directory(scratch / "weights", path, name, "checkpoint", {"step": step})


def test_a_fingerprint_survives_its_labels_and_names_what_differs() -> None:
    labels = as_labels({"threads": "1", "cpu": "A"}) | {"step": 4}

    assert differences(labels, {"threads": "1", "cpu": "A"}) == []
    assert differences(labels, {"threads": "2", "cpu": "A", "gpu": "G"}) == [
        "gpu: unknown → G",
        "threads: 1 → 2",
    ]


def test_metrics_are_json_lines_and_prometheus_text(tmp_path: Path) -> None:
    metrics = Metrics(True, tmp_path / "m.jsonl", port=0)
    try:
        metrics.event("step", step=3, loss=1.5)
        metrics.set(step=3, loss=1.5)
        metrics.add("saves_total")
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        metrics.close()

    line = json.loads((tmp_path / "m.jsonl").read_text())
    assert {"event": "step", "step": 3, "loss": 1.5}.items() <= line.items()
    assert "# TYPE holdfast_training_saves_total counter\nholdfast_training_saves_total 1\n" in text
    assert "\nholdfast_training_loss 1.5\n" in text


def test_metrics_that_cannot_be_written_do_not_end_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = Metrics(True, tmp_path / "no such directory" / "m.jsonl")

    metrics.event("step", step=1)
    metrics.event("step", step=2)

    assert capsys.readouterr().out.count("no more metrics") == 1


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        ([], {}, "volume is missing: give --volume or HOLDFAST_VOLUME"),
        (["--colour", "red"], {}, "unrecognized arguments: --colour red"),
        ([], {"HOLDFAST_TRAINING_STEPS": "-1"}, "--steps '-1': input should be greater than"),
        (["--parallel", "magic"], {}, "--parallel 'magic': input should be 'ddp' or 'fsdp'"),
        (["--preset", "huge"], {}, "preset 'huge' does not exist: use tiny, small, medium"),
        (["--heads", "5"], {}, "width 256 must be a multiple of heads (5)"),
        (["--batch", "1", "--ranks", "2"], {}, "batch 1 leaves some of 2 ranks without a sample"),
        (
            ["--nodes", "2", "--min-nodes", "3", "--rendezvous", "h:1"],
            {},
            "min_nodes 3 is more than nodes 2: use 2 at most",
        ),
        ([], {"HOLDFAST_NODES": "2"}, "set rendezvous to host:port"),
        ([], {"HOLDFAST_RUN": "My Run"}, "run name 'My Run'"),
    ],
)
def test_wrong_settings_are_one_line_that_says_what_to_do(
    options: list[str], environment: dict[str, str], message: str
) -> None:
    given = {"HOLDFAST_VOLUME": "/somewhere"} | environment if message[:6] != "volume" else {}

    with pytest.raises(UsageError) as caught:
        load(options, given)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_wins_over_the_environment_and_that_over_the_preset() -> None:
    environment = {
        "HOLDFAST_VOLUME": "/somewhere",
        "HOLDFAST_TRAINING_PRESET": "tiny",
        "HOLDFAST_TRAINING_LAYERS": "3",
        "HOLDFAST_TRAINING_WIDTH": "64",
        "HOLDFAST_TRAINING_STEPS": "",
    }

    config = load(["--width", "128"], environment)

    assert (config.layers, config.width, config.heads, config.steps) == (3, 128, 2, 200)


def test_exit_codes_are_those_that_the_job_decides_by() -> None:
    assert {outcome.value: outcome.exit_code for outcome in Outcome} == {
        "done": 0,
        "stopped": 75,
        "retry": 1,
        "recover": 74,
        "refused": 76,
    }


def consumed(ranks: int, first: int, steps: int) -> list[list[int]]:
    """The samples of each step, of all ranks, sorted."""
    orders = [
        iter(Order(size=70, seed=1, batch=8, rank=r, world_size=ranks, consumed=first))
        for r in range(ranks)
    ]
    return [sorted(index for order in orders for index in next(order)) for _ in range(steps)]


def test_a_stop_ends_everything_at_once_until_the_ranks_train(tmp_path: Path) -> None:
    files, asked = StopFiles(tmp_path), []
    with pytest.raises(StopRequested), forward_stop(files, 60, lambda: asked.append(1)):
        signal.raise_signal(signal.SIGTERM)
    assert files.asked

    (tmp_path / "other").mkdir()
    files = StopFiles(tmp_path / "other")
    files.begin_training()
    with forward_stop(files, 60, lambda: asked.append(2)):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert files.asked
    assert asked == [1, 2]


def test_a_stop_of_the_ranks_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    files = StopFiles(tmp_path)
    files.begin_training()

    with (
        pytest.raises(TimeoutError, match=r"did not stop within 0.01 s: raise shutdown_timeout"),
        forward_stop(files, 0.01, lambda: None),
    ):
        signal.raise_signal(signal.SIGTERM)
        signal.pause()


def test_a_signal_before_a_rank_listens_is_not_lost(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with blocked_signals():
            signal.raise_signal(signal.SIGTERM)
            stop = Stop(StopFiles(tmp_path))
            assert stop.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

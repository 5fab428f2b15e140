"""What all frameworks share, without a framework: one process, and two real ranks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.errors import HoldfastError, RecoveryNeeded, RecoveryStopped, UsageError
from holdfast.integrations.ranks import split_files
from holdfast.integrations.run import Run, exit_codes
from holdfast.manifest import FileEntry
from holdfast.recovery.writers import Superseded, WriterPresent, no_writers


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, "gpt", framework="lab 1.0")


def finished(tmp_path: Path, text: str = "weights") -> Path:
    """A directory that a framework has finished."""
    path = tmp_path / "out" / "checkpoint-4"
    path.mkdir(parents=True)
    (path / "model.bin").write_text(text)
    return path


def saved(run: Run, step: int) -> Path:
    assert run.save(step, lambda path: (path / "model.bin").write_text(f"weights {step}"))
    return run.volume.generation_path(1) / f"step-{step:08d}"


def test_a_first_start_has_nothing_to_resume_and_a_second_has_the_newest(
    run: Run, tmp_path: Path
) -> None:
    assert run.resume() is None
    saved(run, 2)
    newest = saved(run, 4)

    again = Run(tmp_path, "gpt")
    bundle = again.resume()

    assert bundle is not None
    assert bundle.path == newest
    assert again.saved_step == 4


def test_a_bundle_with_a_flipped_bit_is_set_aside_and_the_one_before_is_taken(
    run: Run, tmp_path: Path, flip: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run.resume()
    before = saved(run, 2)
    flip(saved(run, 4) / "model.bin")

    bundle = Run(tmp_path, "gpt").resume()

    assert bundle is not None
    assert bundle.path == before
    assert "step-00000004" in capsys.readouterr().err
    assert [path.name[:13] for path in run.volume.quarantined()] == ["step-00000004"]


def test_only_bad_bundles_are_no_reason_for_step_0(
    run: Run, tmp_path: Path, flip: Callable[..., None]
) -> None:
    run.resume()
    flip(saved(run, 2) / "model.bin")

    with pytest.raises(RecoveryStopped, match="only bad bundles"):
        Run(tmp_path, "gpt").resume()


def test_a_required_start_refuses_an_empty_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_START", "require")
    with pytest.raises(RecoveryStopped, match="start is 'require'"):
        Run(tmp_path, "gpt").resume()


def test_a_volume_that_is_lost_after_a_fresh_start_is_not_another_fresh_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = tmp_path / "decision.json"
    decision.write_text(json.dumps({"decision": "fresh"}))
    monkeypatch.setenv("HOLDFAST_DECISION", str(decision))
    (volume := tmp_path / "volume").mkdir()
    run = Run(volume, "gpt")
    assert run.resume() is None
    saved(run, 2)

    (lost := tmp_path / "lost").mkdir()
    with pytest.raises(RecoveryNeeded, match="a new pod has to recover it"):
        Run(lost, "gpt").resume()


def test_a_bundle_marked_as_unhealthy_is_not_resumed(run: Run, tmp_path: Path) -> None:
    run.resume()
    good = saved(run, 2)
    run.save(4, lambda path: (path / "nan.bin").write_text("NaN"), {"healthy": 0})

    bundle = Run(tmp_path, "gpt").resume()

    assert bundle is not None
    assert bundle.path == good


def test_a_finished_directory_is_moved_and_its_bundle_says_where_it_is_from(
    run: Run, tmp_path: Path
) -> None:
    run.resume()
    directory = finished(tmp_path)
    inode = (directory / "model.bin").stat().st_ino

    assert run.commit(directory, 4)

    assert not directory.exists()
    bundle = verify(run.volume.generation_path(1) / "step-00000004")
    assert (bundle.path / "model.bin").stat().st_ino == inode  # no byte was copied
    assert bundle.manifest.labels == {
        "run": "gpt",
        "generation": 1,
        "step": 4,
        "world_size": 1,
        "framework": "lab 1.0",
    }


def test_the_newest_bundles_stay_and_older_ones_go(tmp_path: Path) -> None:
    run = Run(tmp_path, "gpt", keep=2)
    run.resume()
    for step in (2, 4, 6):
        saved(run, step)
    run.end(stopped=False)  # waits for the removal, which runs behind the saves

    assert [bundle.step for bundle in run.volume.bundles()] == [6, 4]


def test_a_save_goes_into_the_generation_that_the_run_began_in(run: Run, tmp_path: Path) -> None:
    run.resume()
    saved(run, 2)
    run.volume.generation_path(2).mkdir()
    (run.volume.generation_path(1) / "step-00000002").rename(
        run.volume.generation_path(2) / "step-00000002"
    )

    again = Run(tmp_path, "gpt")
    again.resume()
    saved_into = again.volume.generation_path(2) / "step-00000004"
    assert again.save(4, lambda path: (path / "model.bin").write_text("weights"))
    assert saved_into.is_dir()


def test_a_failed_save_is_said_and_the_next_one_heals_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.resume()

    def fail(path: Path) -> None:
        (path / "half.bin").write_text("half")
        raise OSError(28, "No space left on device")

    assert not run.save(2, fail)
    assert run.problem is not None
    assert "step 2 could not be saved" in run.problem
    assert run.problem in capsys.readouterr().err
    assert list(run.volume.generation_path(1).iterdir()) == []  # nothing half is left

    saved(run, 4)
    assert run.problem is None
    run.end(stopped=False)


def test_a_process_whose_last_save_failed_does_not_end_as_if_all_were_well(run: Run) -> None:
    run.resume()
    saved(run, 2)
    assert not run.commit(run.volume.root / "missing", 4)

    with pytest.raises(HoldfastError, match="step 4 could not be saved"):
        run.end(stopped=True)


def test_each_end_has_the_exit_code_that_kubernetes_goes_by(run: Run) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.end(stopped=True)
    with pytest.raises(SystemExit) as refused, exit_codes():
        raise RecoveryStopped("only bad bundles")

    with pytest.raises(SystemExit) as lost, exit_codes():
        raise RecoveryNeeded("no valid bundle on the volume")

    assert (stopped.value.code, refused.value.code, lost.value.code) == (75, 76, 74)


def test_sigterm_is_noted_between_begin_and_end_only(run: Run) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run.stop.begin()
    os.kill(os.getpid(), signal.SIGTERM)
    assert run.stop_agreed()
    run.stop.end()
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_saved_before_it_is_known_what_there_is(run: Run) -> None:
    with pytest.raises(UsageError, match="call it at the start"):
        run.commit(run.volume.root, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"HOLDFAST_RUN": "gpt"}, "no volume is named"),
        ({"HOLDFAST_VOLUME": "/"}, "no run is named"),
        ({"HOLDFAST_VOLUME": "/nowhere", "HOLDFAST_RUN": "gpt"}, "is it mounted there"),
        ({"HOLDFAST_VOLUME": "/", "HOLDFAST_RUN": "Not a name"}, "invalid run name"),
        ({"HOLDFAST_VOLUME": "/", "HOLDFAST_RUN": "gpt", "HOLDFAST_KEEP": "0"}, "at least 1"),
        ({"HOLDFAST_VOLUME": "/", "HOLDFAST_RUN": "gpt", "HOLDFAST_KEEP": "x"}, "invalid number"),
        ({"HOLDFAST_VOLUME": "/", "HOLDFAST_RUN": "gpt", "HOLDFAST_START": "x"}, "invalid start"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        Run()


def test_the_shared_part_starts_without_pytorch() -> None:
    code = "import sys, holdfast.integrations.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RANKS = Path(__file__).parent / "two_ranks.py"


def on_two_ranks(scene: str, volume: Path) -> list[subprocess.CompletedProcess[str]]:
    """Play a scene of `two_ranks.py` on two processes that are joined by gloo."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    meeting = volume.parent / f"meeting-{scene}"
    processes = [
        subprocess.Popen(
            [sys.executable, RANKS, scene, str(rank), meeting, volume],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    ended = [(process, *process.communicate(timeout=120)) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, out, err)
        for process, out, err in ended
    ]


def test_the_files_of_a_bundle_are_shared_out_evenly_and_completely() -> None:
    files = [FileEntry(path=f"f{n}", size=n * 10, sha256="0" * 64) for n in range(1, 12)]

    parts = split_files(files, 3)

    assert sorted(e.path for part in parts for e in part) == sorted(e.path for e in files)
    sizes = [sum(e.size for e in part) for part in parts]
    assert max(sizes) - min(sizes) <= 110


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (volume := tmp_path / "volume").mkdir()
    return volume


def bundles(volume: Path) -> list[Bundle]:
    return Run(volume, "gpt").volume.bundles()


@pytest.mark.torch
@pytest.mark.slow
def test_a_bundle_holds_the_files_of_a_rank_that_was_late(shared: Path) -> None:
    first, late = on_two_ranks("late", shared)

    assert (first.returncode, late.returncode) == (0, 0), first.stderr + late.stderr
    assert first.stdout == late.stdout == "left in order\n"
    files = [entry.path for entry in verify(bundles(shared)[0].path).manifest.files]
    assert files == ["rank-0.bin", "rank-1.bin"]


@pytest.mark.torch
@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_after_the_same_step(shared: Path) -> None:
    first, other = on_two_ranks("stop", shared)

    assert (first.returncode, other.returncode) == (75, 75), first.stderr + other.stderr
    assert first.stdout == other.stdout == "stopped at 3\nleft in order\n"
    assert [bundle.step for bundle in bundles(shared)] == [3]


@pytest.mark.torch
@pytest.mark.slow
def test_a_rank_that_fails_to_write_makes_the_save_fail_on_both(shared: Path) -> None:
    first, other = on_two_ranks("fail", shared)

    for ended in (first, other):
        assert ended.returncode == 1, ended.stderr
        assert "step 1 could not be saved: rank 1: no space for rank 1" in ended.stderr
        assert "dropped in time" in ended.stdout, "the interpreter ended before its threads"
    assert bundles(shared) == []


@pytest.mark.torch
@pytest.mark.slow
def test_ranks_that_see_different_volumes_do_not_train(shared: Path) -> None:
    first, other = on_two_ranks("split", shared)

    for ended in (first, other):
        assert ended.returncode == 1
        assert "is the volume shared by all of them?" in ended.stderr


def test_a_restore_cannot_switch_a_run_between_its_resume_and_its_end(run: Run) -> None:
    run.resume()
    with pytest.raises(WriterPresent), no_writers(run.volume, patience=0):
        pass
    run.end(stopped=False)
    with no_writers(run.volume, patience=0) as locked:
        assert locked


def test_a_process_that_a_restore_left_behind_saves_nothing_more(run: Run, tmp_path: Path) -> None:
    run.resume()
    saved(run, 2)
    run.volume.generation_path(2).mkdir()

    with pytest.raises(Superseded, match="start it again"):
        run.save(4, lambda path: (path / "model.bin").write_text("weights"))
    with pytest.raises(Superseded):
        run.commit(finished(tmp_path), 4)
    assert [bundle.step for bundle in run.volume.bundles(1)] == [2]


@pytest.mark.parametrize(("decision", "left"), [(False, ".void-ab12"), (True, ".stage-ab12")])
def test_a_start_voids_a_stage_where_no_init_container_did_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decision: bool, left: str
) -> None:
    (tmp_path / "gpt" / ".stage-ab12").mkdir(parents=True)
    if decision:
        (tmp_path / "decision.json").write_text('{"decision": "fresh"}')
        monkeypatch.setenv("HOLDFAST_DECISION", str(tmp_path / "decision.json"))
    run = Run(tmp_path, "gpt")

    run.resume()
    run.end(stopped=False)
    assert [path.name for path in (tmp_path / "gpt").glob(".*-ab12")] == [left]

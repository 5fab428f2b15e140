"""What `make cluster` started is stopped by its record."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from cluster import processes
from cluster.errors import ClusterProblem

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(processes, "_RECORDS", tmp_path / "processes")
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    return tmp_path


def test_a_started_process_ends_when_it_is_stopped() -> None:
    processes.start("sleep", SLEEP)
    process = processes.running("sleep")
    assert process is not None

    assert processes.stop("sleep")

    assert not process.is_running()
    assert processes.running("sleep") is None


def test_a_process_that_got_the_id_since_is_left_alone(state: Path) -> None:
    other = psutil.Popen(SLEEP)
    try:
        (state / "processes").mkdir()
        record = {"pid": other.pid, "started": "another-boot 4711"}
        (state / "processes" / "sleep.json").write_text(json.dumps(record))

        assert not processes.stop("sleep")
        assert other.is_running()
    finally:
        other.kill()
        other.wait()


def test_a_process_is_known_after_someone_set_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.start("sleep", SLEEP)
    try:
        monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
        assert processes.running("sleep") is not None
    finally:
        assert processes.stop("sleep")


@pytest.mark.parametrize("record", ["", "{}", '{"pid": 1, "created": 4711.0}'])
def test_a_record_that_cannot_be_read_is_not_taken_for_a_process_that_ended(
    record: str, state: Path
) -> None:
    (state / "processes").mkdir()
    (state / "processes" / "etcd.json").write_text(record)

    with pytest.raises(ClusterProblem, match=r"etcd\.json is no record .* end etcd if it runs"):
        processes.running("etcd")


def test_a_process_that_cannot_be_recorded_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def full(name: str, pid: int) -> None:
        started.append(psutil.Process(pid))
        raise OSError("no space left on device")

    monkeypatch.setattr(processes, "_record", full)
    with pytest.raises(OSError, match="no space"):
        processes.start("sleep", SLEEP)
    started[0].wait(20)
    assert processes.running("sleep") is None


def test_a_process_that_ends_at_once_is_an_error_with_its_last_lines() -> None:
    processes.start("broken", [sys.executable, "-c", "raise SystemExit('no disk')"])

    with pytest.raises(ClusterProblem, match=r"(?s)broken ended; .*no disk"):
        processes.wait("broken", lambda: False)

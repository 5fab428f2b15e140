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
        record = {"pid": other.pid, "created": other.create_time() - 100}
        (state / "processes" / "sleep.json").write_text(json.dumps(record))

        assert not processes.stop("sleep")
        assert other.is_running()
    finally:
        other.kill()
        other.wait()


def test_a_process_that_ends_at_once_is_an_error_with_its_last_lines() -> None:
    processes.start("broken", [sys.executable, "-c", "raise SystemExit('no disk')"])

    with pytest.raises(ClusterProblem, match=r"(?s)broken ended; .*no disk"):
        processes.wait("broken", lambda: False)

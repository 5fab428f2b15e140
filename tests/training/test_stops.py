"""An orderly stop at any moment: the exit code is 75, nothing is lost, and it is no crash."""

import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.training.lab import Lab, command, until
from training.crash_loop import FILE
from training.outcome import Outcome

pytestmark = [pytest.mark.torch, pytest.mark.slow]

Moment = Callable[[subprocess.Popen[bytes], Lab], object]


def listening(process: subprocess.Popen[bytes], lab: Lab) -> None:
    """It has a handler for SIGTERM, and imports the rest."""
    until(lambda: catches(process.pid, signal.SIGTERM), process)


def counted(process: subprocess.Popen[bytes], lab: Lab) -> None:
    """The start is counted, and PyTorch is imported."""
    file = lab.volume.run_path / FILE
    before = file.stat().st_mtime_ns if file.exists() else 0
    until(lambda: file.exists() and file.stat().st_mtime_ns != before, process)


def recovering(process: subprocess.Popen[bytes], lab: Lab) -> None:
    """The ranks have started and wait for one of them, which hangs."""
    until(lambda: len(ranks(process)) == 2, process)
    ranks(process)[1].suspend()


@pytest.mark.parametrize("moment", [listening, counted, recovering])
def test_stops_while_starting_end_with_75_and_never_lead_to_76(
    lab: Lab, undisturbed: Lab, moment: Moment
) -> None:
    for _ in range(3):
        with command(lab, attempts=2) as process:
            moment(process, lab)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 75

    assert not (lab.volume.run_path / FILE).exists()
    assert lab.train(attempts=1) is Outcome.DONE
    assert lab.contents() == undisturbed.contents()


def test_a_stop_while_the_ranks_are_started_again_ends_with_75(lab: Lab) -> None:
    with command(lab, steps=100_000, save_every=1000, max_restarts=9) as process:
        until(lambda: len(lab.events("step")) >= 3, process)
        with suppress(psutil.NoSuchProcess):
            ranks(process)[0].kill()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75

    assert not (lab.volume.run_path / FILE).exists()


def test_a_stop_while_there_is_no_rendezvous_store_ends_with_75(lab: Lab) -> None:
    settings = {"nodes": 2, "rendezvous": "127.0.0.1:9", "attempts": 1}
    for _ in range(2):
        with command(lab, **settings, stderr=lab.root / "errors") as process:
            until(lambda: "waiting for the rendezvous" in errors(lab), process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 75
        (lab.root / "errors").unlink()


def test_a_crash_before_a_stop_still_counts(lab: Lab) -> None:
    assert lab.train("save.shard-written=kill", attempts=2) is Outcome.RETRY
    with command(lab, attempts=2) as process:
        counted(process, lab)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75
    assert lab.train("save.shard-written=kill", attempts=2) is Outcome.RETRY

    assert lab.train("save.shard-written=kill", attempts=2) is Outcome.REFUSED


def ranks(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The ranks that the fork server has started."""
    servers = [p for p in psutil.Process(process.pid).children() if "forkserver" in cmdline(p)]
    return [rank for server in servers for rank in server.children()]


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in status if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def errors(lab: Lab) -> str:
    file = lab.root / "errors"
    return file.read_text() if file.exists() else ""

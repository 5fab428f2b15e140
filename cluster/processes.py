"""The cluster's processes: started in the background with a log each, stopped by their record.

A record holds the process id and when that process started: an id that the system has given to
another program since is left alone. The time is in ticks since the boot, and the boot has an id:
the clock of a machine is set now and then.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from cluster.errors import ClusterProblem
from cluster.places import LOGS, STATE

_RECORDS = STATE / "processes"
_LAST_LINES = 15
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def start(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Start a program unless it runs; its output goes on in ``logs/<name>.log``."""
    if running(name) is not None:
        return
    _RECORDS.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=None if environment is None else dict(environment),
        )
    try:
        _record(name, process.pid)
    except BaseException:
        process.kill()  # nothing would stop it later
        raise


def running(name: str) -> psutil.Process | None:
    """The process that ``start`` recorded, while it lives.

    Raises:
        ClusterProblem: the record is not one of ours; what it was about may run.
    """
    file = _RECORDS / f"{name}.json"
    try:
        record = json.loads(file.read_text())
        pid, started = record["pid"], record["started"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ClusterProblem(
            f"{file} is no record of a process: end {name} if it runs, delete the file"
        ) from None
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process if alive and _started(pid) == started else None
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return None


def _record(name: str, pid: int) -> None:
    file = _RECORDS / f"{name}.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"pid": pid, "started": _started(pid)}))
    new.replace(file)


def _started(pid: int) -> str:
    """When a process started: the boot, and the ticks since (proc(5), field 22 of stat)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{_BOOT.read_text().strip()} {after_name[19]}"


def stop(name: str, seconds: float = 15, *, kill: bool = False) -> bool:
    """End a recorded process, by force if it does not end in time; whether there was one."""
    process = running(name)
    if process is not None:
        process.kill() if kill else process.terminate()
        try:
            process.wait(seconds)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(seconds)
    (_RECORDS / f"{name}.json").unlink(missing_ok=True)
    return process is not None


def pause(name: str, *, resume: bool = False) -> None:
    """Freeze a process as it is, or let it go on: a machine that hangs."""
    if (process := running(name)) is not None:
        process.resume() if resume else process.suspend()


def wait(name: str, ready: Callable[[], bool], seconds: float = 90) -> None:
    """Until a started process answers.

    Raises:
        ClusterProblem: it ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        ended = running(name) is None
        if ended or time.monotonic() > deadline:
            what = "ended" if ended else f"did not answer within {seconds:g} s"
            log = LOGS / f"{name}.log"
            lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            raise ClusterProblem("\n".join([f"{name} {what}; the end of {log}:", *lines]))
        time.sleep(0.2)

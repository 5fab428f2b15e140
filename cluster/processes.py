"""The cluster's processes: started in the background with a log each, stopped by their record.

A record holds the process id and when that process started: an id that the system has given to
another program since is left alone.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from cluster.errors import ClusterProblem
from cluster.places import LOGS, STATE

_RECORDS = STATE / "processes"
_LAST_LINES = 15


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
    created = psutil.Process(process.pid).create_time()
    (_RECORDS / f"{name}.json").write_text(json.dumps({"pid": process.pid, "created": created}))


def running(name: str) -> psutil.Process | None:
    """The process that ``start`` recorded, while it lives."""
    try:
        record = json.loads((_RECORDS / f"{name}.json").read_text())
        process = psutil.Process(record["pid"])
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return process if alive and process.create_time() == record["created"] else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


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

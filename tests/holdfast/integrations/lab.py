"""Kill a small training at many points of one save, and let the framework go on.

    python -m tests.holdfast.integrations.lab transformers stock --kills 100

The framework is imported once; each training is a fork of this process. The points are spread
evenly over all calls that the save makes, into Python and into C, on all of its threads: what a
save is in the middle of at a point is the same each time. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

#: the step whose save is killed; another was saved before
KILLED_STEP = 4
STEPS, EVERY = 6, 2


class Window:
    """Counts calls between `open` and `close`, and kills this process at one of them."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.calls = 0
        self._kill_at = kill_at

    def open(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def close(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Framework(Protocol):
    """A module that trains with one framework."""

    def train(self, folder: Path, protected: bool, window: Window) -> str:
        """Train to the end from whatever is in `folder`; return a hash of the weights.

        `window` is opened right before the save of `KILLED_STEP`, and closed when it has ended.
        """
        ...


def in_fork(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run it in a fork: its wait status, and what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer = json.dumps(work())
            os.write(write, answer.encode())
            code = 0
        except SystemExit as end:
            os.write(write, json.dumps(f"SystemExit {end.code}").encode())
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            os.write(write, json.dumps(reason[:100]).encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return os.waitpid(child, 0)[1], json.loads(text) if text else None


def quiet() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lab-", dir=os.environ.get("LAB_ROOT")) as folder:
        (Path(folder) / "volume").mkdir()
        yield Path(folder)


def play(framework: Framework, protected: bool, kills: int) -> dict[str, Any]:
    """Kill `kills` trainings, each at another point, and see what becomes of them."""

    def train(folder: Path, window: Window) -> Any:
        quiet()
        return framework.train(folder, protected, window), window.calls

    with scratch() as folder:
        status, answer = in_fork(lambda: train(folder, Window()))
        if status:
            raise SystemExit(f"the undisturbed training failed: {answer}")
        expected, calls = answer
    ends: Counter[str] = Counter()
    for number in range(kills):
        point = 1 + calls * number // kills
        with scratch() as folder:
            status, _ = in_fork(lambda: train(folder, Window(point)))  # noqa: B023
            if not os.WIFSIGNALED(status):
                ends["not killed"] += 1
                continue
            status, answer = in_fork(lambda: train(folder, Window()))
            if status:
                ends[f"failed: {_without_paths(answer, folder)}"] += 1
            else:
                ends["same end" if answer[0] == expected else "another end"] += 1
            if os.environ.get("LAB_KEEP") and status:
                shutil.copytree(folder, Path(os.environ["LAB_KEEP"]) / f"{point}")
    return {"calls": calls, "kills": kills, "ends": dict(ends)}


def _without_paths(answer: Any, folder: Path) -> str:
    return str(answer).replace(str(folder), "…")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework")
    parser.add_argument("who", choices=["stock", "holdfast"])
    parser.add_argument("--kills", type=int, default=100)
    chosen = parser.parse_args()
    framework: Any = importlib.import_module(f"tests.holdfast.integrations.lab_{chosen.framework}")
    print(json.dumps(play(framework, chosen.who == "holdfast", chosen.kills)))


if __name__ == "__main__":
    main()

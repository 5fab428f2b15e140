"""Small trainings, run in this process by the real entry point; only the ranks are processes.

The fork server that makes them imports PyTorch once, so a training takes a second or two.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.cleanup import Cleanup
from holdfast.integrations.dcp import Saver
from holdfast.volume import Volume
from training.config import Config
from training.entry import run
from training.outcome import Outcome
from training.ranks import Ranks, joined

STEPS, EVERY = 12, 4


class Lab:
    """One volume, and the trainings that are run on it."""

    def __init__(self, root: Path, corpus: Path) -> None:
        self.root = root
        self.corpus = corpus
        self.metrics = root / "metrics.jsonl"
        self.volume = Volume(root / "volume", "lab")
        root.mkdir(exist_ok=True)

    def settings(self, **changed: Any) -> dict[str, Any]:
        return {
            "volume": self.root / "volume",
            "run": "lab",
            "data": self.corpus,
            "metrics": self.metrics,
            "preset": "tiny",
            "ranks": 2,
            "steps": STEPS,
            "save_every": EVERY,
            "when_busy": "wait",  # a step takes a few milliseconds here, less than a save
            "keep": 9,
            "warmup": 3,
            "max_restarts": 0,
            "timeout": 60,
            "save_timeout": 30,
        } | changed

    def train(self, failpoint: str = "", **changed: Any) -> Outcome:
        os.environ["HOLDFAST_FAILPOINT"] = failpoint
        try:
            return run(Config.model_validate(self.settings(**changed)))
        finally:
            del os.environ["HOLDFAST_FAILPOINT"]

    def copy_of(self, other: "Lab", *steps: int) -> "Lab":
        """Take over the bundles of these steps from another lab."""
        for step in steps:
            name = f"gen-0001/step-{step:08d}"
            shutil.copytree(other.volume.run_path / name, self.volume.run_path / name)
        return self

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def contents(self) -> dict[int, str]:
        """The `content` of each bundle's manifest, by step."""
        return {bundle.step or 0: bundle.manifest.content for bundle in self.volume.bundles()}

    def bundle(self, step: int) -> Path:
        return self.volume.generation_path(1) / f"step-{step:08d}"

    def flip_a_bit(self, step: int, file: str = "__1_0.distcp") -> None:
        path = self.bundle(step) / file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@contextmanager
def alone(volume: Path) -> Iterator[Ranks]:
    """This process as a training's only rank."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "0",
        }.items():
            patch.setenv(name, value)
        with joined(Config(volume=volume, timeout=30)) as ranks:
            yield ranks


class command:  # noqa: N801
    """`python -m training` as a process group of its own, killed at the end whatever happens."""

    def __init__(
        self,
        lab: Lab,
        environment: dict[str, str] | None = None,
        stderr: Path | None = None,
        **changed: Any,
    ) -> None:
        options = [
            f"--{name.replace('_', '-')}={value}" for name, value in lab.settings(**changed).items()
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "training", *options],
            env=os.environ | (environment or {}),
            stderr=stderr.open("wb") if stderr else None,
            start_new_session=True,
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def saver_of(volume: Volume, ranks: Ranks, keep: int) -> Saver:
    """As the trainer makes it."""
    parent, cleanup = volume.generation_path(1), Cleanup(volume, keep)
    return Saver(parent, cleanup, ranks.saves, ranks.device, finite=True)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process is None or process.poll() is None, "the training ended by itself"
        assert time.monotonic() < deadline, "waited 90 s in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"

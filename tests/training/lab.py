"""Small trainings, run in this process by the real entry point; only the ranks are processes.

The fork server that makes them imports PyTorch once, so a training takes a second or two.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from holdfast.volume import Volume
from training.__main__ import run
from training.config import Config
from training.outcome import Outcome

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

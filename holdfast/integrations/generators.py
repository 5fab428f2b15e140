"""The random number generators of a rank: Python's, NumPy's, PyTorch's on CPU and on its GPUs.

Frameworks lose them in different ways: some never save them, some set them before the data loader
draws from them. A rank keeps its own in a file of the bundle.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import torch


def save(directory: Path, rank: int, found: dict[str, Any], when: str = "now") -> None:
    """Write generators of this rank, as `state` gave them, into a checkpoint's directory."""
    torch.save(found, directory / _name(rank, when))


def load(directory: Path, rank: int, when: str = "now") -> dict[str, Any] | None:
    """What this rank saved there; None if there was no such rank."""
    path = directory / _name(rank, when)
    return torch.load(path, weights_only=True) if path.exists() else None


def state() -> dict[str, Any]:
    """The generators as they are now, as values that load without running code."""
    found: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        name, keys, *rest = numpy.random.get_state()
        found["numpy"] = (name, keys.tolist(), *rest)
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def restore(found: dict[str, Any]) -> None:
    """Set the generators. Those of GPUs only where there are as many."""
    random.setstate(found["python"])
    torch.set_rng_state(found["torch"])
    if "numpy" in found and (numpy := sys.modules.get("numpy")):
        numpy.random.set_state(tuple(found["numpy"]))
    if torch.cuda.is_available() and len(found.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(found["cuda"])


def _name(rank: int, when: str) -> str:
    return f"generators-{when}-{rank}.pt"

"""A rank of `bench.saves`: steps of fixed work, and saves of each kind in turn."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from holdfast.cleanup import Cleanup
from holdfast.integrations.dcp import Saver
from holdfast.volume import Volume
from training.ranks import Ranks

TENSORS = 16
PATIENCE = timedelta(minutes=5)


class Loop:
    """Steps of equal work that synchronise the ranks like a training does."""

    def __init__(self) -> None:
        self._weights = torch.randn(640, 640)
        self._gradient = torch.randn(64, 1024)

    def steps(self, count: int, after: Callable[[int], None]) -> float:
        """The seconds that ``count`` steps took; ``after`` is called after each."""
        dist.barrier()
        began = time.monotonic()
        for number in range(count):
            for _ in range(12):
                self._weights = torch.tanh(self._weights @ self._weights)
            dist.all_reduce(self._gradient)
            after(number)
        dist.barrier()
        return time.monotonic() - began


class Saves:
    """The kinds of save. Each returns when training may continue; `finish` waits for the rest."""

    def __init__(self, directory: Path, state: dict[str, Any], ranks: Ranks) -> None:
        self.directory, self.state, self.ranks = directory, state, ranks
        volume = Volume(directory, "bench")
        parent, cleanup = volume.generation_path(1), Cleanup(volume, keep=1000)
        self._saver = Saver(parent, cleanup, ranks.saves, ranks.device, finite=True)
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._flight: Future[Any] | None = None
        self._number = 0

    def ours(self) -> None:
        self._number += 1
        self._saver.begin(self._number, self.state, {"run": "bench", "generation": 1})

    def raw_async(self, stager: DefaultStager | None = None) -> None:
        flight = dcp.async_save(
            self.state,
            checkpoint_id=self._fresh(),
            process_group=self.ranks.saves,
            async_stager=stager,
        )
        self._flight = cast("Future[Any]", flight)

    def raw_async_again(self) -> None:
        """With the buffers of the save before, which is faster."""
        self.raw_async(self._stager)

    def raw_sync(self) -> None:
        dcp.save(self.state, checkpoint_id=self._fresh(), process_group=self.ranks.saves)

    def plain(self) -> None:
        path = self._fresh()
        if self.ranks.first:
            torch.save(self.state, path)
        dist.barrier()

    def finish(self) -> None:
        saved = self._saver.wait()
        if saved is not None and saved.problem:
            raise RuntimeError(saved.problem)
        if self._flight is not None:
            self._flight.result()
            self._flight = None

    def clear(self) -> None:
        dist.barrier()
        if self.ranks.first:
            shutil.rmtree(self.directory)
            self.directory.mkdir()
        dist.barrier()

    def _fresh(self) -> Path:
        self._number += 1
        return self.directory / f"raw-{self._number}"


def main(directory: str, result: str, size: str, runs: str, count: str) -> None:
    dist.init_process_group("gloo", timeout=PATIENCE)
    torch.set_num_threads(1)
    groups = [dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2)]
    control, saves_group = (cast(dist.ProcessGroup, group) for group in groups)
    cpu = torch.device("cpu")
    ranks = Ranks(cpu, control, saves_group)
    Path(directory).mkdir(exist_ok=True)
    each = int(size) // TENSORS // 4
    saves = Saves(
        Path(directory), {f"layer-{n:02d}": torch.randn(each) for n in range(TENSORS)}, ranks
    )
    kinds = {
        "holdfast": saves.ours,
        "dcp.async_save, buffers reused": saves.raw_async_again,
        "dcp.async_save": saves.raw_async,
        "dcp.save": saves.raw_sync,
        "torch.save by rank 0": saves.plain,
    }
    found = measure(Loop(), saves, kinds, int(runs), int(count))
    if ranks.first:
        Path(result).write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(
    loop: Loop, saves: Saves, kinds: dict[str, Callable[[], None]], runs: int, count: int
) -> dict[str, dict[str, list[float]]]:
    """Rounds of one segment without saves and one with each kind; the first round warms up."""
    found: dict[str, dict[str, list[float]]] = {n: {"lost": [], "stall": []} for n in kinds}
    interval = steps_for(loop, saves)
    for number in range(runs + 1):
        without = loop.steps(interval * count, lambda _: None)
        for name, save in kinds.items():
            stalls: list[float] = []

            def after(step: int, save: Callable[[], None] = save, to: list[float] = stalls) -> None:
                if step % interval == 0:
                    saves.finish()
                    began = time.monotonic()
                    save()
                    to.append(time.monotonic() - began)

            wall = loop.steps(interval * count, after)
            saves.finish()
            saves.clear()
            if number:
                found[name]["lost"].append((wall - without) / count)
                found[name]["stall"] += stalls
    return found


def steps_for(loop: Loop, saves: Saves) -> int:
    """How many steps take three times as long as one save in the background."""
    began = time.monotonic()
    saves.ours()
    saves.finish()
    saving = time.monotonic() - began
    saves.clear()
    step = loop.steps(20, lambda _: None) / 20
    agreed = torch.tensor([3 * saving / step])
    dist.broadcast(agreed, 0)
    return max(10, int(agreed.item()))


if __name__ == "__main__":
    main(*sys.argv[1:])

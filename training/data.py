"""The training data, and its order: a pure function of the seed and of the samples consumed.

The order does not depend on the ranks. Sample `n`, counted over all ranks from step 0 on, is always
the same; of `world_size` ranks each takes every `world_size`-th sample. So a bundle holds one
number, and any number of ranks can resume from it without losing or repeating a sample.
"""

import hashlib
import signal
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from holdfast.errors import UsageError
from holdfast.manifest import MANIFEST
from training import lineage

REPOSITORY = Path(__file__).resolve().parent.parent


class Corpus(Dataset[tuple[Tensor, Tensor]]):
    """Text files as one sequence of bytes, in samples of `block` bytes and the bytes after each.

    `dataset` is the `content` of the dataset that the folder holds, if `holdfast get` made it.
    """

    def __init__(self, folder: Path | None, block: int) -> None:
        self.source = folder or REPOSITORY
        files = _texts(folder) if folder else {path: path.read_bytes() for path in _documents()}
        self.dataset: str | None = None
        if folder and (manifest := lineage.dataset_in(folder)):
            files.pop(folder / MANIFEST, None)
            lineage.check(folder, manifest, files)
            self.dataset = manifest.content
        data = b"\n".join(files.values())
        self.block = block
        self.size = len(data)
        self.digest = hashlib.sha256(data).hexdigest()
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        if len(self) < 1:
            raise UsageError(
                f"'{self.source}' holds {self.size} bytes of text, a sample has {block + 1}: "
                "give --data a folder with more text"
            )

    def __len__(self) -> int:
        return max(0, (self.size - 1) // self.block)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.block
        window = torch.from_numpy(self._bytes[start : start + self.block + 1].astype(np.int64))
        return window[:-1], window[1:]


def sample_at(number: int, size: int, seed: int) -> int:
    """The index (of `size` samples) of the sample that is consumed as number `number` (from 0)."""
    epoch, position = divmod(number, size)
    return int(_permutation(seed, epoch, size)[position])


class Order:
    """Endless batches of sample indices for one rank: torchdata's `batch_sampler`."""

    def __init__(
        self, *, size: int, seed: int, batch: int, rank: int, world_size: int, consumed: int
    ) -> None:
        self.size = size
        self.seed = seed
        self.batch = batch
        self.rank = rank
        self.world_size = world_size
        self.consumed = consumed

    def __iter__(self) -> Iterator[list[int]]:
        return _Position(self)


class _Position:
    """The position of an iteration. torchdata saves it with the state of the loader."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.consumed = order.consumed

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        order = self.order
        first = self.consumed + order.rank
        self.consumed += order.batch
        numbers = range(first, self.consumed, order.world_size)
        return [sample_at(number, order.size, order.seed) for number in numbers]

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.consumed = state["consumed"]


def loader(
    corpus: Corpus, order: Order, workers: int, state: dict[str, Any] | None
) -> StatefulDataLoader:
    """A loader that continues at `order.consumed`, or from its own saved state if there is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata's own call
        result = StatefulDataLoader(
            corpus,
            batch_sampler=order,
            num_workers=workers,
            worker_init_fn=_ignore_stop_signals if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
    if state is not None:
        result.load_state_dict(state)
    return result


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    name = hashlib.sha256(f"order {seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(name[:7], "big"))
    return torch.randperm(size, generator=generator).numpy()


def _ignore_stop_signals(worker: int) -> None:
    """A signal to the whole process group stops the rank; its loaders must go on until it saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _documents() -> list[Path]:
    return sorted(REPOSITORY.glob("*.md")) + sorted((REPOSITORY / "docs").rglob("*.md"))


def _texts(folder: Path) -> dict[Path, bytes]:
    """All files below `folder` that look like text, sorted by name, with their bytes."""
    if not folder.is_dir():
        raise UsageError(f"--data '{folder}' is not a directory: give a folder of text files")
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    found.sort(key=lambda path: path.relative_to(folder).as_posix().encode())
    read = {path: path.read_bytes() for path in found}
    return {path: data for path, data in read.items() if b"\0" not in data}

"""The state of a training: weights, optimizer, schedule, random numbers, position in the data."""

import hashlib
import math
import pickle
import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from holdfast.integrations.storage_writer import canonical_pickle, is_finite
from training import data
from training.config import Config, Parallel
from training.model import Gpt, next_byte_loss
from training.ranks import Ranks


class State:
    """The training between two steps. `begin()` must be called once, after any `load()`.

    A bundle holds one part for all ranks (with the global cursor) and one small part for each rank:
    its random number generators and its loader. The small parts are used only by the same number of
    ranks; with another number, loaders start at the cursor and generators are seeded from it.
    """

    def __init__(self, config: Config, ranks: Ranks, corpus: data.Corpus) -> None:
        self.config = config
        self.ranks = ranks
        self.corpus = corpus
        self.step = 0
        self.consumed = 0  # samples, by all ranks since step 0
        torch.manual_seed(config.seed)
        self.model = _distribute(Gpt(config).to(ranks.device), config, ranks)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.rate)
        self._schedule = _Schedule(config)
        self.schedule = LambdaLR(self.optimizer, self._schedule)
        self._own: dict[str, Any] | None = None  # this rank's part, as it was loaded

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def begin(self) -> None:
        """Open the data at the cursor; from now on `train_step` can be called."""
        order = data.Order(
            size=len(self.corpus),
            seed=self.config.seed,
            batch=self.config.batch,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            consumed=self.consumed,
        )
        own = self._own or {}
        self._loader = data.loader(self.corpus, order, self.config.loaders, own.get("loader"))
        self._batches = iter(self._loader)
        # Only now: making the iterator draws from the generator that is restored here.
        if self._own is None:
            _seed(f"{self.config.seed} {self.consumed} {self.ranks.rank}/{self.ranks.size}")
        else:
            _restore_generators(self._own["generators"])

    def close(self) -> None:
        """End the loaders."""
        del self._batches, self._loader

    def train_step(self) -> float:
        """One step on the next batch of all ranks; returns this rank's loss.

        Ranks with more samples than others (as when a node is gone) weigh more, so that the mean
        over the ranks is the mean over the batch.
        """
        inputs, targets = (tensor.to(self.ranks.device) for tensor in next(self._batches))
        self._batch = inputs, targets
        loss: Tensor = next_byte_loss(self.model(inputs), targets)
        share = len(inputs) * self.ranks.size / self.config.batch
        if share != 1:
            loss = loss * share
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.consumed += self.config.batch
        return loss.item()

    def probe(self) -> float:
        """This rank's loss on its last batch with the weights as they are now, without dropout.

        The loss of a step is that of the weights before it, and tells nothing of those after it.
        """
        inputs, targets = self._batch
        self.model.eval()
        with torch.no_grad():
            loss: Tensor = next_byte_loss(self.model(inputs), targets)
        self.model.train()
        return loss.item()

    def collect(self) -> dict[str, Any]:
        """What a bundle holds, ready for torch.distributed.checkpoint."""
        own = {"generators": _generators(), "loader": self._loader.state_dict()}
        return self._common() | {"ranks": {str(self.ranks.rank): canonical_pickle(own)}}

    def load(self, path: Path, keep_own: bool) -> None:
        """Take the state from a verified bundle (it is read with pickle).

        Rate and schedule are those of the settings, whatever they were when the bundle was saved.
        `keep_own` takes this rank's own part too, which fits only the same ranks and data.
        """
        found = self._common()
        if keep_own:
            found["ranks"] = {str(self.ranks.rank): b""}
        dcp.load(
            found,
            storage_reader=dcp.FileSystemReader(path),
            process_group=self.ranks.control,
        )
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=found["model"],
            optim_state_dict=found["optimizer"],
        )
        self.step = found["progress"]["step"]
        self.consumed = found["progress"]["consumed"]
        self._own = pickle.loads(found["ranks"][str(self.ranks.rank)]) if keep_own else None
        present = self._schedule
        rate = self.config.rate * present(self.step)
        self.schedule.load_state_dict(
            found["schedule"]
            | {"base_lrs": [self.config.rate], "_last_lr": [rate], "lr_lambdas": [vars(present)]}
        )
        for group in self.optimizer.param_groups:
            group |= {"initial_lr": self.config.rate, "lr": rate}

    def is_finite(self) -> bool:
        """Whether this rank's weights and moments hold neither NaN nor infinity."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.parameters(), *self.model.buffers(), *moments]
        return all(is_finite(tensor) for tensor in tensors if isinstance(tensor, Tensor))

    def _common(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "progress": {"step": self.step, "consumed": self.consumed},
        }


class _Schedule:
    """The learning rate as a share of the highest: a linear rise, then a cosine down to 10 %."""

    def __init__(self, config: Config) -> None:
        self._warmup = config.warmup
        self._steps = config.steps

    def __call__(self, step: int) -> float:
        if step < self._warmup:
            return (step + 1) / self._warmup
        share = min(1.0, (step - self._warmup) / max(1, self._steps - self._warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def _distribute(model: Gpt, config: Config, ranks: Ranks) -> torch.nn.Module:
    if config.parallel is Parallel.DDP:
        return DistributedDataParallel(model)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _seed(name: str) -> None:
    number = int.from_bytes(hashlib.sha256(f"generators {name}".encode()).digest()[:7], "big")
    torch.manual_seed(number)  # all devices
    random.seed(number)


def _generators() -> dict[str, Any]:
    found = {"python": random.getstate(), "torch": torch.get_rng_state().numpy().tobytes()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return found


def _restore_generators(found: dict[str, Any]) -> None:
    random.setstate(found["python"])
    torch.set_rng_state(torch.frombuffer(bytearray(found["torch"]), dtype=torch.uint8))
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(found["cuda"]), dtype=torch.uint8))

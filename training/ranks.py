"""The processes that train together, and how they agree on something."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from holdfast.integrations import ranks as integrations
from training.config import Config
from training.fabric import check, log_network, network_in


@dataclass(frozen=True)
class Agreed:
    """What all ranks know after a step boundary."""

    stop: bool  # somebody asked at least one rank to stop
    busy: bool  # at least one rank has not finished the save in flight
    due: bool  # the clock says that it is time to save
    diverged: bool  # at least one rank has seen too many saves refused
    loss: float  # mean over the ranks


class Ranks(integrations.Ranks):
    """This process among its peers. The training itself uses the default group.

    The main threads decide on `control`; `saves` belongs to the thread that writes a bundle. Two
    threads on one group would mix up their messages and hang.
    """

    def __init__(
        self, device: torch.device, control: dist.ProcessGroup, saves: dist.ProcessGroup
    ) -> None:
        super().__init__(control)
        self.device = device
        self.control = control
        self.saves = saves

    def agree(self, *, stop: bool, busy: bool, due: bool, diverged: bool, loss: float) -> Agreed:
        """One reduction per step, so that all ranks stop, save and skip at the same steps."""
        votes = torch.tensor([stop, busy, due and self.first, diverged, loss], dtype=torch.float64)
        dist.all_reduce(votes, group=self.control)
        *flags, losses = votes.tolist()
        return Agreed(*(flag > 0 for flag in flags), loss=losses / self.size)


@contextmanager
def joined(config: Config) -> Iterator[Ranks]:
    """Join the process groups (gloo on CPU, NCCL on GPU), and leave them at the end."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    patience = timedelta(seconds=config.timeout)
    log = log_network(os.environ, Path(tempfile.gettempdir()))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    control = dist.new_group(backend="gloo", timeout=patience)
    saves = dist.new_group(backend="gloo", timeout=timedelta(seconds=config.save_timeout))
    if not (isinstance(control, dist.ProcessGroup) and isinstance(saves, dist.ProcessGroup)):
        raise RuntimeError("this rank is not in its own process groups")
    ranks = Ranks(device, control, saves)
    if log is not None and device.type == "cuda":
        dist.all_reduce(torch.ones(1, device=device))  # NCCL looks for a network at its first use
        check(dict(enumerate(ranks.gather(network_in(log)))))
    yield ranks
    dist.destroy_process_group()  # only on success: after a failure a peer may never answer

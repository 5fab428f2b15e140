"""A model with dropout, data, and a hash, that all labs share."""

import hashlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch._dynamo  # an optimizer imports it: once here, and not in each fork

torch.set_num_threads(1)


class Numbers(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples that differ, each always the same."""

    def __init__(self, size: int = 20) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        made = torch.Generator().manual_seed(index)
        return torch.randn(8, generator=made), torch.randn(1, generator=made)


def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
    )


def digest(model: torch.nn.Module) -> str:
    """A hash of the weights: equal only if every bit is."""
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(weights).hexdigest()[:16]

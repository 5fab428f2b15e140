"""What must be equal for two runs to give the same bits, and which of it differs."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from training.config import Config

PREFIX = "fingerprint."


def fingerprint(config: Config, world_size: int, corpus_digest: str) -> dict[str, str]:
    """Every property that is known to change the results of the same code, as short strings."""
    found = {
        "image": os.environ.get("HOLDFAST_IMAGE", "none"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "layout": f"{config.parallel} nodes={world_size // config.ranks} ranks={config.ranks}",
        "batch": f"{config.batch} dropout={config.dropout} rate={config.rate}"
        f" warmup={config.warmup} steps={config.steps} seed={config.seed}",
        "data": corpus_digest[:16],
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": f"{torch.get_num_threads()} omp={os.environ.get('OMP_NUM_THREADS', 'unset')}"
        f" mkl={os.environ.get('MKL_NUM_THREADS', 'unset')}",
        "deterministic": str(torch.are_deterministic_algorithms_enabled()).lower(),
    }
    found |= {
        name.lower(): value
        for name in ("MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")
        if (value := os.environ.get(name))
    }
    if torch.cuda.is_available():
        nccl = torch.cuda.nccl.version()
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "driver": _driver(),
            "nccl": ".".join(map(str, nccl)) if isinstance(nccl, tuple) else str(nccl),
            "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "unset"),
        }
    return found


def as_labels(found: Mapping[str, str]) -> dict[str, str | int]:
    """The labels of a bundle that carry a fingerprint."""
    return {f"{PREFIX}{key}": value for key, value in found.items()}


def differences(labels: Mapping[str, str | int], present: Mapping[str, str]) -> list[str]:
    """What differs between a bundle's fingerprint and the present one; empty: bit for bit."""
    then = {k.removeprefix(PREFIX): str(v) for k, v in labels.items() if k.startswith(PREFIX)}
    return [
        f"{key}: {then.get(key, 'unknown')} → {present.get(key, 'unknown')}"
        for key in sorted(then.keys() | present.keys())
        if then.get(key) != present.get(key)
    ]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _driver() -> str:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return "unknown"

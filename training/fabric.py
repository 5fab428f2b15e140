"""Whether NCCL uses the network that the stack asked for.

An image without libfabric and AWS' plugin, a pod without adapters or a container that may not lock
memory makes NCCL fall back to TCP without an error: the training runs many times slower, on the
most expensive nodes. NCCL says which network it took in its own log only.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from holdfast.errors import ExitCode, HoldfastError

#: As NCCL's ``src/plugin/net.cc`` writes it at level INFO.
_USED = re.compile(r"Using network (.+)")


class WrongNetwork(HoldfastError):
    """EFA was asked for, and NCCL uses another network."""

    exit_code = ExitCode.REFUSED


def log_network(environment: MutableMapping[str, str], folder: Path) -> Path | None:
    """Have NCCL log which network it takes, where the stack asked for EFA.

    To be called before NCCL starts. Returns the log of this process; None where EFA was not asked
    for, or where the user keeps NCCL's log elsewhere.
    """
    if environment.get("FI_PROVIDER") != "efa" or "NCCL_DEBUG_FILE" in environment:
        return None
    log = folder / f"holdfast-nccl-{os.getpid()}.log"
    environment.setdefault("NCCL_DEBUG", "INFO")
    environment.setdefault("NCCL_DEBUG_SUBSYS", "INIT,NET")
    environment["NCCL_DEBUG_FILE"] = str(log)
    return log


def network_in(log: Path) -> str | None:
    """The network that NCCL says it uses; None where it does not say."""
    if not log.exists():
        return None
    found = _USED.findall(log.read_text(encoding="utf-8", errors="replace"))
    return found[-1].strip() if found else None


def check(networks: Mapping[int, str | None]) -> None:
    """Raise WrongNetwork where any rank talks over TCP. The networks are by rank."""
    wrong = [rank for rank, network in networks.items() if network and "Socket" in network]
    if wrong:
        shown = ", ".join(map(str, wrong[:8])) + (", …" if len(wrong) > 8 else "")
        raise WrongNetwork(
            f"NCCL uses TCP sockets on rank {shown}, and the stack asked for EFA: use an image "
            "with libfabric and aws-ofi-nccl (images/training-efa), see docs/eks.md"
        )

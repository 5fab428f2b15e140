"""Feature gates of Kubernetes that a cluster is started with, such as one that is still alpha.

They are kept beside the running cluster: what starts one of its parts again gives it the same.
"""

import os
import re

from cluster.errors import ClusterProblem
from cluster.places import STATE

#: As the flag ``--feature-gates`` has them: ``A=true,B=false``.
VARIABLE = "HOLDFAST_FEATURE_GATES"
RECORD = STATE / "feature-gates"
_GATES = re.compile(r"[A-Z]\w*=(true|false)(,[A-Z]\w*=(true|false))*")


def choose(*, running: bool) -> None:
    """Take the gates of the environment for the cluster that starts now; one that runs keeps its.

    Raises:
        ClusterProblem: the variable says no gates, or others than the running cluster has.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and not _GATES.fullmatch(wanted):
        raise ClusterProblem(f"{VARIABLE}: {wanted!r} is no list of gates: use A=true,B=false")
    if not running:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(wanted)
    elif wanted and wanted != _chosen():
        raise ClusterProblem(
            f"{VARIABLE}: the cluster runs with {_chosen() or 'no gates of its own'}, and they are "
            "set at its start: make cluster-down first"
        )


def flags() -> list[str]:
    """What a part of Kubernetes gets on its command line."""
    return [f"--feature-gates={_chosen()}"] if _chosen() else []


def as_settings() -> dict[str, bool]:
    """What the kubelet gets in its configuration."""
    pairs = (pair.partition("=") for pair in _chosen().split(",") if pair)
    return {name: value == "true" for name, _, value in pairs}


def _chosen() -> str:
    return RECORD.read_text() if RECORD.exists() else ""

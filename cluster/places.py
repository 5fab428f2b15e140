"""Where everything is: what was built, and what a running cluster writes."""

import os
from pathlib import Path

#: The repository.
PROJECT = Path(__file__).resolve().parent.parent
#: What was built, kept between clusters.
BUILT = PROJECT / ".cache" / "cluster"
BIN = BUILT / "bin"
#: Plugins and the state of stacks that `make up` deploys.
PULUMI_HOME = BUILT / "pulumi"
#: The kubeconfig of the cluster that `make cluster` started.
KUBECONFIG = BUILT / "kubeconfig"
#: A running cluster: sockets (whose paths must be short), keys, data, logs, process ids.
STATE = Path(os.environ.get("HOLDFAST_CLUSTER_STATE", "/var/lib/holdfast-cluster"))
LOGS = STATE / "logs"
#: The module that built the cluster's Kubernetes (`cluster.versions`).
KUBERNETES = STATE / "kubernetes"


def kubernetes() -> Path:
    """Where the programs of the cluster's Kubernetes are."""
    return programs(kubernetes_module())


def kubernetes_module() -> str:
    """The module that built the cluster's Kubernetes; where no cluster is, that of the default."""
    return KUBERNETES.read_text() if KUBERNETES.exists() else "kubernetes"


def programs(module: str) -> Path:
    """Where what a module builds is: a second Kubernetes has a folder of its own."""
    return BUILT / module if module.startswith("kubernetes-") else BIN


def tools_first(environment: dict[str, str] | None = None) -> dict[str, str]:
    """The environment with our tools in front of PATH."""
    found = dict(os.environ if environment is None else environment)
    ours = (kubernetes(), BIN, PROJECT / ".venv" / "bin", "/usr/local/go/bin")
    found["PATH"] = ":".join([*dict.fromkeys(map(str, ours)), found.get("PATH", "")])
    return found

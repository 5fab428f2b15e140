"""Which Kubernetes a cluster is started with: what the EKS target pins, or the next.

It is kept beside the cluster's data: what starts one of its parts again runs the same programs.
"""

from enum import StrEnum

from cluster.errors import ClusterProblem
from cluster.places import KUBERNETES, STATE, kubernetes_module


class Minor(StrEnum):
    """A minor version that can be started."""

    PINNED = "1.35"
    NEXT = "1.36"

    @property
    def release(self) -> str:
        """What is built of it."""
        return {Minor.PINNED: "v1.35.4", Minor.NEXT: "v1.36.3"}[self]

    @property
    def module(self) -> str:
        """The name of the module of `cluster/modules` that builds it."""
        return "kubernetes" if self is Minor.PINNED else f"kubernetes-{self}"


def chosen() -> Minor:
    """That of the cluster which is there; of none, what the next has that names no other."""
    module = kubernetes_module()
    return next(minor for minor in Minor if minor.module == module)


def choose(wanted: Minor | None) -> None:
    """Take a version for the cluster that starts now; one that is there keeps its.

    Raises:
        ClusterProblem: the cluster that is there has another.
    """
    if (STATE / "etcd").exists():
        if wanted not in (None, chosen()):
            raise ClusterProblem(
                f"--kubernetes {wanted}: the cluster has {chosen()}, and so has what it stores: "
                "make cluster-down first"
            )
    else:
        KUBERNETES.write_text((wanted or Minor.PINNED).module)

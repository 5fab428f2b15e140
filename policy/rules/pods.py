"""What a pod may do to its node, and what it must say about itself."""

from collections.abc import Iterator, Sequence
from typing import Any

from policy.model import UNKNOWN, Config, Resource, at, items, known, lacks, rule, stack_rule, unset
from policy.workloads import COMPONENT, Pod, containers, is_system, pods

#: Namespaces whose pods may have rights on nodes, with the reason.
SYSTEM = {
    "kube-system": "drivers and device plugins reach the node's devices, mounts and network",
    "holdfast-system": "gives directories of nodes to the pods' user, once, with no user code",
}


@rule(
    "containers-say-what-they-need",
    "Set requests for CPU and memory and a limit for memory on every container, so that one pod "
    "cannot take a node from the others.",
)
def resources_set(resource: Resource, _: Config) -> Iterator[str]:
    wanted = (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
    for pod, container in _containers(resource):
        missing = [".".join(path) for path in wanted if unset(at(container, "resources", *path))]
        if missing:
            yield f"{_name(pod, container)} has no resources.{', '.join(missing)}: set it"


@rule(
    "no-privileged-pods",
    "Run no privileged container and share no namespace with the node, except where drivers run.",
    namespaces=SYSTEM,
)
def privileged(resource: Resource, config: Config) -> Iterator[str]:
    for pod in pods(resource):
        if is_system(pod.namespace, config["namespaces"]):
            continue
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if at(pod.spec, key) is True:
                yield f"{pod.what} shares a namespace with the node: remove {key}".strip()
        for container in containers(pod):
            if at(container, "securityContext", "privileged") is True:
                yield f"{_name(pod, container)} is privileged: remove it, or use a system namespace"


@rule(
    "no-host-paths",
    "Mount no directory of a node in a pod; a PersistentVolume with node affinity may be one.",
    namespaces=SYSTEM,
)
def host_paths(resource: Resource, config: Config) -> Iterator[str]:
    for pod in pods(resource):
        if is_system(pod.namespace, config["namespaces"]):
            continue
        for volume in items(at(pod.spec, "volumes")):
            if not unset(at(volume, "hostPath")):
                yield f"{pod.what} volume {at(volume, 'name')} is a hostPath: use a claim".strip()


@rule(
    "pods-are-restricted",
    "Give every pod the complete security context that Pod Security `restricted` asks for, and a "
    "root file system that cannot be written to.",
    namespaces=SYSTEM,
)
def restricted(resource: Resource, config: Config) -> Iterator[str]:
    for pod in pods(resource):
        if is_system(pod.namespace, config["namespaces"]) or pod.spec is UNKNOWN:
            continue
        for container in containers(pod):
            missing = list(_missing(at(pod.spec, "securityContext"), container))
            if missing:
                yield f"{_name(pod, container)}: set {', '.join(missing)}"


def _missing(of_pod: Any, container: Any) -> Iterator[str]:
    own = at(container, "securityContext")

    def either(*path: str) -> Any:
        found = at(own, *path)
        return at(of_pod, *path) if found is None else found

    if either("runAsNonRoot") not in (True, UNKNOWN):
        yield "runAsNonRoot: true"
    if either("runAsUser") == 0:
        yield "runAsUser to something other than 0"
    if either("seccompProfile", "type") not in ("RuntimeDefault", "Localhost", UNKNOWN):
        yield "seccompProfile.type: RuntimeDefault"
    if at(own, "allowPrivilegeEscalation") not in (False, UNKNOWN):
        yield "allowPrivilegeEscalation: false"
    if at(own, "readOnlyRootFilesystem") not in (True, UNKNOWN):
        yield "readOnlyRootFilesystem: true"
    if lacks(at(own, "capabilities", "drop"), "ALL"):
        yield "capabilities.drop: [ALL]"
    if any(added != "NET_BIND_SERVICE" for added in items(at(own, "capabilities", "add"))):
        yield "no capabilities.add"


@rule(
    "user-code-has-no-token",
    "Mount no API token in pods that run user code or Kanister's tasks: neither calls the API. A "
    "task that pauses what owns a workload's pods does, and mounts no volume but scratch space.",
    components=["trainer", "application", "task", "rendezvous"],
)
def token(resource: Resource, config: Config) -> Iterator[str]:
    for pod in pods(resource):
        mounts = at(pod.spec, "automountServiceAccountToken") not in (False, UNKNOWN)
        component = at(pod.labels, COMPONENT)
        if component == "task" and _has_scratch_alone(pod.spec):
            continue
        if mounts and component in config["components"]:
            what = f"{pod.what} has a token of the API".strip()
            yield f"{what}: set automountServiceAccountToken to false"


def _has_scratch_alone(spec: Any) -> bool:
    """Whether a pod has volumes, and none that anything is kept on."""
    volumes = at(spec, "volumes")
    if volumes is UNKNOWN:
        return True
    return bool(volumes) and all(at(each, "emptyDir") is not None for each in items(volumes))


@stack_rule(
    "no-disruption-budget-on-jobs",
    "Select no pod of a Job by a PodDisruptionBudget: it blocks every drain of the node until the "
    "training is over. A drained trainer saves, and goes on elsewhere.",
)
def budgets(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    jobs = [r for r in resources if r.kind in ("Job", "CronJob")]
    for budget in (r for r in resources if r.kind == "PodDisruptionBudget"):
        selector = at(budget.inputs, "spec", "selector")
        for job in jobs:
            for pod in pods(job):
                if pod.namespace == budget.namespace and selects(selector, pod.labels):
                    yield budget, f"selects the pods of {job.kind} {job.name}: select others only"


def selects(selector: Any, labels: Any) -> bool:
    """Whether a label selector matches; what is not wholly known does not."""
    if selector is None or not known(selector) or not known(labels):
        return False
    labels = labels or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        present, value = term["key"] in labels, labels.get(term["key"])
        listed = term.get("values") or []
        holds = {
            "In": present and value in listed,
            "NotIn": not present or value not in listed,
            "Exists": present,
            "DoesNotExist": not present,
        }
        if not holds[term["operator"]]:
            return False
    return True


def _containers(resource: Resource) -> Iterator[tuple[Pod, Any]]:
    for pod in pods(resource):
        for container in containers(pod):
            yield pod, container


def _name(pod: Pod, container: Any) -> str:
    return f"{pod.what} container {at(container, 'name')}".strip()

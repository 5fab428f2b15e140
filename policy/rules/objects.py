"""Objects of the cluster that go wrong without an error."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from policy.model import (
    UNKNOWN,
    Config,
    Resource,
    at,
    items,
    known,
    mapping,
    rule,
    stack_rule,
    unset,
)
from policy.rules.pods import SYSTEM
from policy.workloads import containers, is_system, pods

_WORDS = re.compile(r"[A-Za-z0-9]+")
_SECRET_WORDS = {"PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "CREDENTIALS"}
_SECRET_PAIRS = {("API", "KEY"), ("ACCESS", "KEY"), ("PRIVATE", "KEY"), ("ACCOUNT", "KEY")}
#: A name that ends so says where the secret is, not what it is.
_REFERENCES = {"FILE", "PATH", "NAME", "URL", "URI", "DIR", "ARN", "ID"}
_SECRET_VALUES = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bgh[pousr]_[0-9A-Za-z]{36}"
    r"|\bxox[abprs]-|\bhf_[0-9A-Za-z]{30}|://[^/\s:@]+:[^/\s@]+@"
)


@rule(
    "blueprints-have-actions",
    "Declare every Blueprint with its actions: the SDK's YAML and CustomResource types drop them "
    "without a word, and the backup then does nothing.",
)
def blueprints(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind != "Blueprint":
        return
    actions = at(resource.inputs, "actions")
    if unset(actions):
        yield "has no actions: declare it as a resource that keeps top-level fields"
    for name, action in mapping(actions).items():
        if unset(at(action, "phases")):
            yield f"action {name} has no phases: add one"


@rule(
    "no-actionset-is-declared",
    "Create ActionSets by command (`holdfast backup`, `holdfast restore`): a declared one runs at "
    "`up` and again whenever it is replaced.",
)
def actionsets(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "ActionSet":
        yield "is an order, not a state: remove it and use the holdfast command"


@stack_rule(
    "actionsets-are-guarded",
    "Where a role may create ActionSets, an admission policy must limit them: who may create one "
    "may run any command on any volume that Kanister reaches.",
)
def guarded(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    if not _guarded(resources, "actionsets"):
        for role, verbs in _verbs_on(resources, "actionsets"):
            if {"create", "update", "patch", "*"} & verbs:
                yield role, "may create any ActionSet: add the admission policy and its binding"


@stack_rule(
    "pod-deletion-is-guarded",
    "Where a role may delete pods and not create them, an admission policy must say which pods: "
    "RBAC knows no labels, and one of the pods is the trainer.",
)
def deletion(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    if not _guarded(resources, "pods"):
        for role, verbs in _verbs_on(resources, "pods"):
            creates = {"create", "*"} & verbs or not known(role.inputs)
            if {"delete", "deletecollection"} & verbs and not creates:
                yield role, "may delete any pod: add the admission policy and its binding"


def _guarded(resources: Sequence[Resource], kind: str) -> bool:
    """Whether an admission policy on ``kind`` is in force, or may be: some of it is not known."""
    policies = [r for r in resources if r.kind == "ValidatingAdmissionPolicy"]
    bindings = [r for r in resources if r.kind == "ValidatingAdmissionPolicyBinding"]
    if not all(known(r.inputs) for r in [*policies, *bindings]):
        return True
    names = [at(policy.inputs, "metadata", "name") for policy in policies if _guards(policy, kind)]
    return any(_enforces(binding, names) for binding in bindings)


def _verbs_on(resources: Sequence[Resource], kind: str) -> Iterator[tuple[Resource, set[str]]]:
    """Each rule of a role that is about ``kind``: the role, and what it may do."""
    for role in resources:
        if role.kind in ("Role", "ClusterRole"):
            for each in items(at(role.inputs, "rules")):
                if {kind, "*"} & set(items(at(each, "resources"))):
                    yield role, set(items(at(each, "verbs")))


def _guards(policy: Resource, kind: str) -> bool:
    rules = items(at(policy.inputs, "spec", "matchConstraints", "resourceRules"))
    covered = any(kind in items(at(rule, "resources")) for rule in rules)
    return covered and at(policy.inputs, "spec", "failurePolicy") in (None, "Fail")


def _enforces(binding: Resource, policies: list[str]) -> bool:
    denies = "Deny" in items(at(binding.inputs, "spec", "validationActions"))
    return denies and at(binding.inputs, "spec", "policyName") in policies


@rule(
    "no-secret-in-plain-sight",
    "Write no password, token or key into a ConfigMap or a container's env: use a Secret, or the "
    "pod's own identity.",
)
def secrets(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "ConfigMap":
        yield from _secrets(mapping(at(resource.inputs, "data")), "data")
    for pod in pods(resource):
        for container in containers(pod):
            env = {at(e, "name"): at(e, "value") for e in items(at(container, "env"))}
            yield from _secrets(env, f"{pod.what} container {at(container, 'name')} env".strip())


def _secrets(values: Mapping[Any, Any], where: str) -> Iterator[str]:
    for key, value in values.items():
        if not isinstance(value, str) or not value or "{{" in value or "$(" in value:
            continue
        if _names_a_secret(str(key)) or _SECRET_VALUES.search(value):
            yield f"{where}.{key} looks like a secret: take it from a Secret"


def _names_a_secret(key: str) -> bool:
    words = [word.upper() for part in _WORDS.findall(key) for word in part.split("_")]
    if not words or words[-1] in _REFERENCES:
        return False
    pairs = set(pairwise(words))
    return bool(_SECRET_WORDS & set(words) or _SECRET_PAIRS & pairs)


@rule(
    "cron-jobs-do-not-overlap",
    "Set concurrencyPolicy Forbid on every CronJob: two backups or prunings at once gain nothing.",
)
def cron_jobs(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind == "CronJob":
        policy = at(resource.inputs, "spec", "concurrencyPolicy")
        if policy not in ("Forbid", UNKNOWN):
            yield f"has concurrencyPolicy {policy or 'Allow'}: set it to Forbid"


@rule(
    "jobs-do-not-vanish",
    "Set no ttlSecondsAfterFinished on a Job of the stack: once it is gone, the next `up` would "
    "train again from the start.",
)
def jobs(resource: Resource, _: Config) -> Iterator[str]:
    seconds = at(resource.inputs, "spec", "ttlSecondsAfterFinished")
    if resource.kind == "Job" and seconds not in (None, UNKNOWN):
        yield "is removed when it is done: remove ttlSecondsAfterFinished"


@rule(
    "namespaces-have-pod-security",
    "Enforce a Pod Security level in every namespace; `privileged` only where drivers run.",
    namespaces=SYSTEM,
)
def namespaces(resource: Resource, config: Config) -> Iterator[str]:
    if resource.kind != "Namespace":
        return
    level = at(resource.inputs, "metadata", "labels", "pod-security.kubernetes.io/enforce")
    name = at(resource.inputs, "metadata", "name")
    if level == "privileged" and is_system(name, config["namespaces"]):
        return
    if level not in ("restricted", "baseline", UNKNOWN):
        yield f"enforces {level or 'nothing'}: set pod-security.kubernetes.io/enforce to restricted"


@rule(
    "cluster-roles-are-narrow",
    "Name verbs, resources and API groups in every role, and bind no one to cluster-admin.",
)
def rbac(resource: Resource, _: Config) -> Iterator[str]:
    if resource.kind in ("Role", "ClusterRole"):
        for each in items(at(resource.inputs, "rules")):
            wild = [k for k in ("verbs", "resources", "apiGroups") if "*" in items(at(each, k))]
            if wild:
                yield f"has * in {', '.join(wild)}: name what is needed"
    role = at(resource.inputs, "roleRef", "name")
    if resource.kind in ("RoleBinding", "ClusterRoleBinding") and role == "cluster-admin":
        yield "makes someone administrator of the cluster: bind a role with what is needed"


@rule(
    "providers-know-their-cluster",
    "Set clusterIdentifier on every Kubernetes provider: otherwise a changed server address (kind "
    "at each start, EKS after a restore) replaces every object of the stack.",
)
def providers(resource: Resource, _: Config) -> Iterator[str]:
    # pulumi-eks makes one of its own, for the objects that it would make: here there are none.
    if resource.type == "pulumi:providers:kubernetes" and "eks:index:" not in resource.urn:
        rendering = not unset(at(resource.inputs, "renderYamlToDirectory"))
        if not rendering and unset(at(resource.inputs, "clusterIdentifier")):
            yield "has no clusterIdentifier: set it to a name that stays"

"""Kanister: the operator, our Blueprints, who may use them, and where it may act."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.kubernetes.environment import paused_by_task
from infra.kubernetes.pipeline import pipeline_task
from infra.kubernetes.pods import PodSettings, user, with_store
from infra.manifests import BLUEPRINTS, Manifest, load, load_all, merge, register
from infra.names import (
    APPLICATIONS,
    BLUEPRINT,
    PIPELINE_CONFIGURATION,
    PIPELINE_RESTORER,
    PIPELINE_STATE,
    TOPMOST,
    pause_account,
    task_account,
)
from infra.protected import ProtectedServer
from infra.settings import AnyWorkload, Application, KanisterSettings

#: The Helm release's name. The chart's ServiceAccount is ``<release>-kanister-operator``, so a name
#: that Pulumi makes up would break every RoleBinding.
RELEASE = "kanister"
OPERATOR_ACCOUNT = f"{RELEASE}-kanister-operator"

#: Blueprint phases that only read the store; the others write copies, records or tombstones.
READS_ONLY = {"stage"}
#: Blueprint phases that do not touch the store at all.
NO_STORE = {"switch", "pause", "resume", "resumeAlways", "goOn"}


@dataclass(frozen=True)
class Guarded:
    """What one service account may ask Kanister for."""

    blueprint: str
    kind: str
    """Of the ActionSet's object: ``pvc`` or ``configmap``."""
    name: str
    """The object's name."""
    task: str
    """The service account of the tasks, whose pods it may delete."""
    restorer: str
    """That of other tasks of a restore: they write what it brings back, or pause; mostly the
    same."""
    owner: str
    """What a restore pauses, as the Blueprint's option calls it: ``job`` or ``deployment``. With
    ``topmost`` a task finds it, and there is no option."""
    paused: str
    """The name of what a restore pauses; with ``topmost`` where the search for it begins, as
    `--pause` has it."""


def guarded(name: str, workload: AnyWorkload) -> Guarded:
    """What the backup account of a workload may ask for: actions on its own claim."""
    served = isinstance(workload, Application)
    tasks = task_account(workload.volume.claim)
    if (search := paused_by_task(name, workload)) is not None:
        return Guarded(
            blueprint=TOPMOST,
            kind="pvc",
            name=workload.volume.claim,
            task=tasks,
            restorer=pause_account(workload.volume.claim),
            owner="topmost",
            paused=search,
        )
    return Guarded(
        blueprint=APPLICATIONS if served else BLUEPRINT,
        kind="pvc",
        name=workload.volume.claim,
        task=tasks,
        restorer=tasks,
        owner="deployment" if served else "job",
        paused=name,
    )


def guarded_pipeline(server: ProtectedServer) -> Guarded:
    """What the pipeline's backup account may ask for: actions on its ConfigMap."""
    return Guarded(
        blueprint=PIPELINE_STATE,
        kind="configmap",
        name=PIPELINE_CONFIGURATION,
        task=PIPELINE_CONFIGURATION,
        restorer=PIPELINE_RESTORER,
        owner="deployment",
        paused=server.deployment,
    )


class Kanister(pulumi.ComponentResource):
    """The operator in its namespace, with the Blueprints and the policy on ActionSets.

    Produces: Namespace, helm Release (with the CRDs), the Blueprints of what the stack has, two
    ValidatingAdmissionPolicies with their bindings: on ActionSets and on the pods of tasks.
    """

    def __init__(
        self,
        name: str,
        kanister: KanisterSettings,
        pods: PodSettings,
        placement: Manifest,
        accounts: Mapping[str, Guarded],
        opts: pulumi.ResourceOptions,
        *,
        tracking: ProtectedServer | None = None,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            kanister: its settings.
            pods: image, user and store of the Blueprint's tasks.
            placement: the part of a PodSpec that lets tasks run where trainers do.
            accounts: ``<namespace>.<service account>`` -> what it may ask for.
            opts: the provider.
            tracking: the tracking server that the pipeline's Blueprint is about, if any.
        """
        super().__init__("holdfast:kanister:Kanister", name, {}, opts)
        self.namespace = register(
            f"{name}-namespace",
            merge(load("kanister-namespace"), {"metadata": {"name": kanister.namespace}}),
            pulumi.ResourceOptions(parent=self),
        )
        in_namespace = pulumi.ResourceOptions(parent=self, depends_on=[self.namespace])
        self.release = _release(f"{name}-release", kanister, in_namespace)

        self._guard(f"{name}-policy", *_actionset_policy(kanister.namespace, accounts))
        self._guard(f"{name}-pods-policy", *_task_pods_policy(accounts))
        # After the release, which brings the kind; so destroyed before it.
        for each in dict.fromkeys(account.blueprint for account in accounts.values()):
            register(
                f"{name}-blueprint-{each}",
                blueprint(each, kanister.namespace, pods, placement, tracking),
                pulumi.ResourceOptions(parent=self, depends_on=[self.release]),
            )
        self.register_outputs({})

    def _guard(self, name: str, policy: Manifest, binding: Manifest) -> None:
        """An admission policy, and the binding that puts it into force."""
        declared = register(
            name, policy, pulumi.ResourceOptions(parent=self, depends_on=[self.release])
        )
        register(
            f"{name}-binding", binding, pulumi.ResourceOptions(parent=self, depends_on=[declared])
        )


class KanisterAccess(pulumi.ComponentResource):
    """Kanister's rights in one workload namespace.

    Produces: Role and RoleBinding for the operator's ServiceAccount.
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        kanister_namespace: str,
        accounts: Sequence[Guarded],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            namespace: where tasks run.
            kanister_namespace: where the operator runs.
            accounts: what is protected in the namespace.
            opts: the provider, and the namespace.
        """
        super().__init__("holdfast:kanister:KanisterAccess", name, {}, opts)
        objects = load_all("kanister-role")
        objects["Role"]["rules"] += rights_on_owners(accounts)
        here = {"metadata": {"namespace": namespace}}
        operator = {
            "kind": "ServiceAccount",
            "name": OPERATOR_ACCOUNT,
            "namespace": kanister_namespace,
        }
        self.role = register(
            f"{name}-role", merge(objects["Role"], here), pulumi.ResourceOptions(parent=self)
        )
        self.binding = register(
            f"{name}-role-binding",
            merge(objects["RoleBinding"], {**here, "subjects": [operator]}),
            pulumi.ResourceOptions(parent=self, depends_on=[self.role]),
        )
        self.register_outputs({})


def rights_on_owners(accounts: Sequence[Guarded]) -> list[Manifest]:
    """What Kanister may do with what restores pause, by the kinds that there are.

    A Deployment is scaled, and its pods are counted: RBAC can name the one, and not the others.
    """
    rules: list[Manifest] = []
    if any(account.owner == "job" for account in accounts):
        rules.append({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "patch"]})
    if scaled := [account.paused for account in accounts if account.owner == "deployment"]:
        verbs = ["get", "patch", "update"]
        rules += [
            {
                "apiGroups": ["apps"],
                "resources": ["deployments"],
                "resourceNames": scaled,
                "verbs": verbs,
            },
            {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        ]
    if maps := [account.name for account in accounts if account.kind == "configmap"]:
        rules.append(
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": maps,
                "verbs": ["get"],
            }
        )
    return rules


def _actionset_policy(
    kanister_namespace: str, accounts: Mapping[str, Guarded]
) -> tuple[Manifest, Manifest]:
    """The policy on ActionSets and its binding."""
    namespaces = list(dict.fromkeys(account.partition(".")[0] for account in accounts))
    condition = {
        "name": "of-a-workload-namespace",
        "expression": f"request.userInfo.username.split(':')[2] in {json.dumps(namespaces)}",
    }
    policy, binding = _policy("actionset-policy", accounts, condition)
    selector = {"matchLabels": {"kubernetes.io/metadata.name": kanister_namespace}}
    return policy, merge(binding, {"spec": {"matchResources": {"namespaceSelector": selector}}})


def _task_pods_policy(accounts: Mapping[str, Guarded]) -> tuple[Manifest, Manifest]:
    """The policy on the pods that the accounts may delete, and on no one else in their namespaces,
    and its binding."""
    names = [f"system:serviceaccount:{account.replace('.', ':', 1)}" for account in accounts]
    expression = f"request.userInfo.username in {json.dumps(names)}"
    condition = {"name": "a-backup-account", "expression": expression}
    return _policy("task-pods-policy", accounts, condition)


def _policy(
    name: str, accounts: Mapping[str, Guarded], condition: Manifest
) -> tuple[Manifest, Manifest]:
    """A policy on what the accounts do, and its binding. JSON of plain names is what CEL calls a
    list and a map.

    Args:
        condition: whose requests it is about.
    """
    objects = load_all(name)
    held = {account: asdict(what) for account, what in accounts.items()}
    policy = {
        "spec": {
            "matchConditions": [condition],
            "variables": [{"name": "accounts", "expression": json.dumps(held)}],
        }
    }
    return (
        merge(objects["ValidatingAdmissionPolicy"], policy),
        objects["ValidatingAdmissionPolicyBinding"],
    )


def _release(
    name: str, kanister: KanisterSettings, opts: pulumi.ResourceOptions
) -> k8s.helm.v3.Release:
    repository = kanister.chart_repository
    return k8s.helm.v3.Release(
        name,
        name=RELEASE,
        chart=kanister.chart,
        version=kanister.version,
        repository_opts=k8s.helm.v3.RepositoryOptsArgs(repo=repository) if repository else None,
        namespace=kanister.namespace,
        values=merge(load("kanister-values"), kanister.values),
        # A release that fails half-way is taken back, so that the next `up` starts clean.
        atomic=True,
        cleanup_on_fail=True,
        timeout=300,
        opts=opts,
    )


def blueprint(
    name: str,
    namespace: str,
    pods: PodSettings,
    placement: Manifest,
    tracking: ProtectedServer | None = None,
) -> Manifest:
    """A Blueprint for this stack: image, user and store as data in every KubeTask."""
    document = merge(load(name, BLUEPRINTS), {"metadata": {"namespace": namespace}})
    for action in document["actions"].values():
        deferred = [action["deferPhase"]] if "deferPhase" in action else []
        for phase in [*action["phases"], *deferred]:
            if phase["func"] != "KubeTask":
                continue
            if name == PIPELINE_STATE and tracking is not None:
                phase["args"] = pipeline_task(phase["name"], phase["args"], pods, tracking)
            else:
                phase["args"] = _task(phase["name"], phase["args"], pods, placement)
    return document


def _task(phase: str, arguments: Manifest, pods: PodSettings, placement: Manifest) -> Manifest:
    pod = merge(arguments["podOverride"], {**user(pods.run_as), **placement})
    if phase not in NO_STORE:
        pod = with_store(pod, pods.store, {"container": phase in READS_ONLY})
    return {**arguments, "image": pods.images.tools, "podOverride": pod}

"""Workloads: a namespace, a training Job that recovers by itself, its Service and environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from infra.kubernetes.distributed import devices, members, rendezvous_objects, several_nodes
from infra.kubernetes.environment import trainer_environment
from infra.kubernetes.hooks import job_is_gone
from infra.kubernetes.kubectl import Kubectl
from infra.kubernetes.placement import protection_from_consolidation, training_placement
from infra.kubernetes.pods import PodSettings, env, environment_map, user, with_store
from infra.kubernetes.recover import recover_container
from infra.kubernetes.restart import restart_rules
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, merge, register
from infra.names import (
    CLAIM_LABEL,
    QUEUE_LABEL,
    WORKLOAD_LABEL,
    config_map_name,
    workload_labels,
)
from infra.settings import Workload
from infra.settings.node_groups import TrainingNodes

#: What cannot be changed in a Job, beside its template.
IMMUTABLE = [
    "spec.podFailurePolicy",
    "spec.completions",
    "spec.completionMode",
    "spec.backoffLimitPerIndex",
    "spec.successPolicy",
]


class WorkloadNamespace(pulumi.ComponentResource):
    """A namespace where workloads run.

    Produces: Namespace with Pod Security ``restricted``.
    """

    def __init__(self, name: str, namespace: str, opts: pulumi.ResourceOptions) -> None:
        super().__init__("holdfast:training:WorkloadNamespace", name, {}, opts)
        self.namespace = register(
            f"{name}-namespace",
            merge(load("namespace"), {"metadata": {"name": namespace}}),
            pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})


class Training(pulumi.ComponentResource):
    """One training run on its volume.

    Produces: ServiceAccount without a token, ConfigMap ``holdfast-<claim>``, Job, Service; for
    several nodes a headless Service ``<workload>-members``, and a Deployment and a Service
    ``<workload>-rendezvous``.
    """

    job_name: pulumi.Output[str]
    """The Job's name."""
    service_name: pulumi.Output[str]
    """The Service in front of the trainer's port."""

    def __init__(
        self,
        name: str,
        workload: Workload,
        pods: PodSettings,
        nodes: TrainingNodes | None,
        environment: Mapping[str, str],
        cluster: Kubectl,
        claims: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
        *,
        login: str | None = None,
    ) -> None:
        """
        Args:
            name: the workload's name, which Job, Service and ServiceAccount get too.
            workload: its settings.
            pods: images, user and store of its pods.
            nodes: the training group that hosts it; None where the nodes are not the stack's.
            environment: of `holdfast` in all pods of the workload.
            cluster: where the Job is.
            claims: what its pods hold; replaced only while no pod runs.
            opts: the parent, and what the pods mount.
            login: the Secret with the trainer's environment for the experiment tracking, if any.
        """
        super().__init__("holdfast:training:Training", name, {}, opts)
        labels = workload_labels(name)
        metadata = {"name": name, "namespace": workload.namespace, "labels": labels}
        options = pulumi.ResourceOptions(parent=self)

        self.account = register(
            f"{name}-account", merge(load("service-account"), {"metadata": metadata}), options
        )
        self.config_map = register(
            f"{name}-environment",
            environment_map(workload.volume.claim, metadata, pods.store, environment),
            options,
        )
        service = {
            "metadata": metadata,
            "spec": {
                "selector": {WORKLOAD_LABEL: name},
                "ports": [{"name": "metrics", "port": workload.port}],
            },
        }
        self.service = register(f"{name}-service", merge(load("service"), service), options)
        before = [self.account, self.config_map]
        if workload.nodes > 1:
            headless = merge(members(name, workload), {"metadata": {"labels": labels}})
            before.append(register(f"{name}-members", headless, options))
            deployment, its_service = rendezvous_objects(
                name, workload, pods.images.training, pods.run_as
            )
            account = pulumi.ResourceOptions(parent=self, depends_on=[self.account])
            before.append(register(f"{name}-rendezvous", deployment, account))
            before.append(register(f"{name}-rendezvous-service", its_service, options))
        self.job = register(
            f"{name}-job",
            training_job(name, workload, pods, nodes, login),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=before,
                ignore_changes=_ignored_changes(workload),
                # Replaced for these too, where the provider would try an update that the API server
                # refuses; and never created first, since the name is taken.
                replace_on_changes=IMMUTABLE,
                replace_with=list(claims),
                delete_before_replace=True,
                hooks=pulumi.ResourceHookBinding(
                    before_create=[_replacement_hook(name, workload, cluster)]
                ),
            ),
        )
        self.job_name = name_of(self.job)
        self.service_name = name_of(self.service)
        self.register_outputs({"job_name": self.job_name, "service_name": self.service_name})


def _ignored_changes(workload: Workload) -> list[str]:
    """A restore suspends and resumes the Job; `up` must not take part in that."""
    manual = ["spec.template", *IMMUTABLE] if workload.rollout == "manual" else []
    return ["spec.suspend", *manual]


def _replacement_hook(name: str, workload: Workload, cluster: Kubectl) -> pulumi.ResourceHook:
    wait = job_is_gone(
        cluster,
        workload.namespace,
        name,
        f"{WORKLOAD_LABEL}={name},app.kubernetes.io/component=trainer",
        workload.termination_grace_seconds,
    )
    return pulumi.ResourceHook(f"{name}-previous-job-is-gone", wait)


def training_job(
    name: str,
    workload: Workload,
    pods: PodSettings,
    nodes: TrainingNodes | None,
    login: str | None = None,
) -> Manifest:
    """The Job of one workload, complete. ``login``: a Secret that the trainer's environment has."""
    base = load("training-job")
    labels = {**workload_labels(name), CLAIM_LABEL: workload.volume.claim}
    source = [{"configMapRef": {"name": config_map_name(workload.volume.claim)}}]
    mounts = [{"name": "volume", "mountPath": workload.mount_path}]
    image = workload.image or pods.images.training
    trainer = {
        "name": "trainer",
        "image": image,
        "command": list(workload.command),
        "envFrom": [*source, *([{"secretRef": {"name": login}}] if login else [])],
        "env": env(trainer_environment(name, workload, nodes, image)),
        "ports": [{"name": "metrics", "containerPort": workload.port}],
        "resources": _resources(workload, nodes),
        "restartPolicyRules": restart_rules(base, workload),
        "volumeMounts": mounts,
    }
    pod: dict[str, Any] = {
        **user(pods.run_as),
        **training_placement(workload, nodes),
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": workload.termination_grace_seconds,
        "initContainers": [recover_container(workload, pods)],
        "containers": [trainer],
        "volumes": [
            {"name": "volume", "persistentVolumeClaim": {"claimName": workload.volume.claim}},
            {"name": "shared-memory", "emptyDir": {"sizeLimit": workload.shared_memory}},
        ],
    }
    metadata: dict[str, Any] = {"labels": labels}
    if annotations := protection_from_consolidation(nodes):
        metadata["annotations"] = annotations
    job = merge(
        base,
        {
            "metadata": {"name": name, "namespace": workload.namespace, "labels": labels},
            "spec": {
                "backoffLimit": workload.backoff_limit,
                "template": {"metadata": metadata, "spec": pod},
            },
        },
    )
    if workload.queue is not None:
        # Kueue starts it; without Kueue it must not start behind the queue's back.
        queued = {"metadata": {"labels": {QUEUE_LABEL: workload.queue}}, "spec": {"suspend": True}}
        job = merge(job, queued)
    if workload.nodes > 1:
        job = merge(job, several_nodes(name, workload))
        del job["spec"]["backoffLimit"]
    # The trainer, which runs user code, gets no way to the store.
    template = job["spec"]["template"]
    template["spec"] = with_store(template["spec"], pods.store, {"recover": True})
    return job


def _resources(workload: Workload, nodes: TrainingNodes | None) -> dict[str, dict[str, str]]:
    wanted = workload.resources
    amount = {"cpu": wanted.cpu, "memory": wanted.memory, **devices(workload, nodes)}
    return {"requests": amount, "limits": amount}

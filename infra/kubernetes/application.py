"""Applications: a Deployment that answers from its volume, its Service and environment."""

from collections.abc import Mapping, Sequence

import pulumi

from infra.kubernetes.environment import application_environment
from infra.kubernetes.pods import PodSettings, env, environment_map, user, with_store
from infra.kubernetes.recover import recover_container
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, load_all, merge, register
from infra.names import CLAIM_LABEL, WORKLOAD_LABEL, config_map_name, workload_labels
from infra.settings import Application


class Server(pulumi.ComponentResource):
    """One application on its volume.

    Produces: ServiceAccount without a token, ConfigMap ``holdfast-<claim>``, Deployment, Service.
    """

    deployment_name: pulumi.Output[str]
    """The Deployment's name."""
    service_name: pulumi.Output[str]
    """The Service in front of it."""

    def __init__(
        self,
        name: str,
        application: Application,
        pods: PodSettings,
        environment: Mapping[str, str],
        claims: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the workload's name, which Deployment, Service and ServiceAccount get too.
            application: its settings.
            pods: images, user and store of its pods.
            environment: of `holdfast` in all pods of the workload.
            claims: what its pods hold; replaced only while no pod runs.
            opts: the parent, and what the pods mount.
        """
        super().__init__("holdfast:application:Server", name, {}, opts)
        labels = workload_labels(name)
        metadata = {"name": name, "namespace": application.namespace, "labels": labels}
        options = pulumi.ResourceOptions(parent=self)
        self.account = register(
            f"{name}-account", merge(load("service-account"), {"metadata": metadata}), options
        )
        self.config_map = register(
            f"{name}-environment",
            environment_map(application.volume.claim, metadata, pods.store, environment),
            options,
        )
        objects = application_objects(name, application, pods)
        self.service = register(f"{name}-service", objects["Service"], options)
        self.deployment = register(
            f"{name}-deployment",
            objects["Deployment"],
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[self.account, self.config_map],
                # A restore scales to zero and back, a person or an autoscaler to any number; `up`
                # takes no part in that.
                ignore_changes=["spec.replicas"],
                replace_with=list(claims),
                delete_before_replace=True,
            ),
        )
        self.deployment_name = name_of(self.deployment)
        self.service_name = name_of(self.service)
        self.register_outputs(
            {"deployment_name": self.deployment_name, "service_name": self.service_name}
        )


def application_objects(
    name: str, application: Application, pods: PodSettings
) -> dict[str, Manifest]:
    """The Deployment and the Service of one application, complete, by kind."""
    claim = application.volume.claim
    labels = {**workload_labels(name), CLAIM_LABEL: claim}
    metadata = {"name": name, "namespace": application.namespace, "labels": labels}
    selector = {WORKLOAD_LABEL: name, "app.kubernetes.io/component": "application"}
    objects = load_all("application")
    service = {
        "metadata": {**metadata, "labels": workload_labels(name)},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": application.port}]},
    }
    template = {"metadata": {"labels": labels}, "spec": _pod(name, application, pods)}
    deployment = merge(
        objects["Deployment"],
        {
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": selector}, "template": template},
        },
    )
    # The server, which runs user code, gets no way to the store.
    pod = deployment["spec"]["template"]
    pod["spec"] = with_store(pod["spec"], pods.store, {"recover": True, "model": True})
    return {"Service": merge(objects["Service"], service), "Deployment": deployment}


def _pod(name: str, application: Application, pods: PodSettings) -> Manifest:
    source = [{"configMapRef": {"name": config_map_name(application.volume.claim)}}]
    mounts = [{"name": "volume", "mountPath": application.mount_path}]
    recover = recover_container(application, pods, of_a_job=False)
    amount = {"cpu": application.resources.cpu, "memory": application.resources.memory}
    probe = {"httpGet": {"path": application.health_path}}
    server = {
        "name": "server",
        "image": application.image or pods.images.training,
        "command": list(application.command),
        "envFrom": source,
        "env": env(application_environment(application)),
        "ports": [{"name": "http", "containerPort": application.port}],
        **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), probe),
        "resources": {"requests": amount, "limits": amount},
        "volumeMounts": mounts,
    }
    first = [recover]
    if application.model is not None:
        first.append(_model(recover, application.model))
    claim = {"claimName": application.volume.claim}
    return {
        **user(pods.run_as),
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": application.termination_grace_seconds,
        "initContainers": first,
        "containers": [server],
        "volumes": [{"name": "volume", "persistentVolumeClaim": claim}],
    }


def _model(recover: Manifest, model: str) -> Manifest:
    """The container that puts the model of the settings on the volume, after `recover`."""
    return {
        **recover,
        "name": "model",
        "command": ["holdfast", "get", "--on-volume"],
        "env": [*recover["env"], *env({"HOLDFAST_MODEL": model})],
    }

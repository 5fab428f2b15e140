"""Datasets and models, which all workloads share: who publishes them, what sweeps after them."""

from collections.abc import Mapping, Sequence

import pulumi

from infra.kubernetes.pods import PodSettings, user, with_store
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, merge, register
from infra.names import ASSETS_PRUNE, PUBLISHER


class Publisher(pulumi.ComponentResource):
    """The identity of Jobs that add and promote datasets and models.

    Produces: ServiceAccount without a token and ConfigMap ``holdfast-publisher``, in one namespace
    of workloads. Elsewhere than on EKS it is the store's volume or Secret that lets a pod write.
    """

    account_name: pulumi.Output[str]
    """The ServiceAccount."""
    config_map: pulumi.CustomResource
    """How to reach the store."""

    def __init__(
        self,
        name: str,
        namespace: str,
        environment: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            namespace: where such Jobs run.
            environment: of `holdfast` in them.
            opts: the provider, and the namespace.
        """
        super().__init__("holdfast:assets:Publisher", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        metadata = {"name": PUBLISHER, "namespace": namespace}
        account = merge(load("task-service-account"), {"metadata": metadata})
        data = merge(load("config-map"), {"metadata": metadata, "data": dict(environment)})
        self.account_name = name_of(register(f"{name}-account", account, own))
        self.config_map = register(f"{name}-environment", data, own)
        self.register_outputs({"account_name": self.account_name})


class Sweep(pulumi.ComponentResource):
    """What removes data of datasets and models that nothing names any more; one for a stack.

    Produces: ServiceAccount and CronJob ``holdfast-prune``.
    """

    cron_job_name: pulumi.Output[str]
    """The CronJob's name."""

    def __init__(
        self,
        name: str,
        namespace: str,
        pods: PodSettings,
        claims: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            namespace: where it runs; it has a publisher, whose ConfigMap it reads.
            pods: image, user and store of its pods.
            claims: what its pods hold, finished ones too.
            opts: the provider, and what must exist first.
        """
        super().__init__("holdfast:assets:Sweep", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        metadata = {"name": ASSETS_PRUNE, "namespace": namespace}
        account = register(
            f"{name}-account", merge(load("task-service-account"), {"metadata": metadata}), own
        )
        cron_job = register(
            f"{name}-schedule",
            sweep_cron_job(namespace, pods),
            pulumi.ResourceOptions(parent=self, depends_on=[account], replace_with=list(claims)),
        )
        self.cron_job_name = name_of(cron_job)
        self.register_outputs({"cron_job_name": self.cron_job_name})


def sweep_cron_job(namespace: str, pods: PodSettings) -> Manifest:
    """The CronJob, complete."""
    cron_job = merge(load("assets-prune"), {"metadata": {"namespace": namespace}})
    template = cron_job["spec"]["jobTemplate"]["spec"]["template"]
    containers = [container["name"] for container in template["spec"]["containers"]]
    tools = {
        "image": pods.images.tools,
        "envFrom": [{"configMapRef": {"name": PUBLISHER}}],
    }
    change = {**user(pods.run_as), "containers": [{"name": each, **tools} for each in containers]}
    template["spec"] = with_store(
        merge(template["spec"], change), pods.store, dict.fromkeys(containers, False)
    )
    return cron_job

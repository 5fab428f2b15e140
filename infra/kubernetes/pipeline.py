"""What stands for a pipeline in the cluster: where its database, artifacts and backups are."""

from collections.abc import Mapping

import pulumi

from infra.kubernetes.pods import environment_map
from infra.manifests import register
from infra.names import PIPELINE, workload_labels
from infra.settings import BackupStore, Tracking


class PipelineConfiguration(pulumi.ComponentResource):
    """The object of the pipeline's ActionSets.

    Produces: ConfigMap ``holdfast-pipeline`` with the environment of its tasks. No secrets.
    """

    def __init__(
        self,
        name: str,
        tracking: Tracking,
        store: BackupStore,
        environment: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            tracking: the server that is protected.
            store: where its backups live.
            environment: of `holdfast` in all of its pods.
            opts: the provider, and the namespace.
        """
        super().__init__("holdfast:pipeline:PipelineConfiguration", name, {}, opts)
        metadata = {"namespace": tracking.namespace, "labels": workload_labels(PIPELINE)}
        self.config_map = register(
            f"{name}-environment",
            environment_map(PIPELINE, metadata, store, environment),
            pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})

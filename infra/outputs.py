"""What a stack exports."""

from dataclasses import dataclass, field, fields
from typing import Any

import pulumi


@dataclass(frozen=True)
class Outputs:
    """The stack's exports: the first workload's names, and maps of all workloads' by name."""

    persistent_volume_name: pulumi.Output[str] | None = None
    persistent_volume_claim_name: pulumi.Output[str] | None = None
    training_job_name: pulumi.Output[str] | None = None
    application_name: pulumi.Output[str] | None = None
    persistent_volumes: dict[str, pulumi.Output[str]] | None = None
    persistent_volume_claims: dict[str, pulumi.Output[str]] | None = None
    training_jobs: dict[str, pulumi.Output[str]] | None = None
    applications: dict[str, pulumi.Output[str]] | None = None
    training_runtimes: dict[str, str] | None = None
    """What the TrainJobs of someone else's name."""
    services: dict[str, pulumi.Output[str]] | None = None
    backup_schedules: dict[str, pulumi.Output[str]] | None = None
    namespaces: dict[str, str] | None = None
    tracking_url: str | None = None
    tracking_service: pulumi.Output[str] | None = None
    pipeline_namespace: str | None = None
    """Where the pipeline's backups run."""
    publishers: dict[str, pulumi.Output[str]] | None = None
    """The account of Jobs that add and promote datasets and models, by namespace."""
    assets_prune_schedule: pulumi.Output[str] | None = None
    """What removes the data of those that were deleted."""
    platform: dict[str, pulumi.Input[Any]] = field(default_factory=dict)
    """What the target adds, by name: on EKS the kubeconfig, the cluster's name and more."""

    def exports(self) -> dict[str, Any]:
        """Name and value of each export; a claim that was there before has no volume of ours."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        named |= named.pop("platform")
        return {name: value for name, value in named.items() if value is not None}

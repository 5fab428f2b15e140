"""What runs on a schedule for each workload: a backup by Kanister, then retention."""

from collections.abc import Sequence

import pulumi

from infra.kubernetes.pods import PodSettings, user, with_store
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, load_all, merge, register
from infra.names import backup_account, config_map_name, task_account, workload_labels
from infra.settings import AnyWorkload, Application

_JOBS = {"apiGroups": ["batch"], "resources": ["jobs"]}


class Protection(pulumi.ComponentResource):
    """The schedule that backs one workload up.

    Produces: ServiceAccount and CronJob ``<workload>-backup``, ServiceAccount ``holdfast-<claim>``
    of Kanister's tasks; in Kanister's namespace a Role and RoleBinding that let the first create
    ActionSets, within the admission policy; in its own those that let it see the Job or Deployment
    that a restore pauses, and remove pods of Kanister's tasks, within another policy.
    """

    cron_job_name: pulumi.Output[str]
    """The CronJob's name."""

    def __init__(
        self,
        name: str,
        workload: AnyWorkload,
        pods: PodSettings,
        kanister_namespace: str,
        claims: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the workload's name.
            workload: its settings.
            pods: image, user and store of the schedule's pods.
            kanister_namespace: where ActionSets are made.
            claims: what its pods hold, finished ones too.
            opts: the parent, and what must exist first.
        """
        super().__init__("holdfast:protection:Protection", f"{name}-protection", {}, opts)
        account = backup_account(name)
        labels = workload_labels(name)
        metadata = {"name": account, "namespace": workload.namespace, "labels": labels}
        options = pulumi.ResourceOptions(parent=self)
        self.account = register(
            f"{account}-account",
            merge(load("backup-service-account"), {"metadata": metadata}),
            options,
        )

        tasks = task_account(workload.volume.claim)
        self.task_account = register(
            f"{name}-task-account",
            merge(load("task-service-account"), {"metadata": {**metadata, "name": tasks}}),
            options,
        )

        role_name = f"holdfast-{workload.namespace}-{account}"
        in_kanister = {"name": role_name, "namespace": kanister_namespace}
        objects = load_all("backup-role")
        self.role = register(
            f"{account}-role",
            merge(objects["Role"], {"metadata": {**in_kanister, "labels": labels}}),
            options,
        )
        subject = {"kind": "ServiceAccount", "name": account, "namespace": workload.namespace}
        binding = {
            "metadata": {**in_kanister, "labels": labels},
            "roleRef": {"name": role_name},
            "subjects": [subject],
        }
        self.binding = register(
            f"{account}-role-binding",
            merge(objects["RoleBinding"], binding),
            pulumi.ResourceOptions(parent=self, depends_on=[self.role, self.account]),
        )
        objects = load_all("backup-job-role")
        (task_pods,) = objects["Role"]["rules"]
        served = isinstance(workload, Application)
        owner = {"apiGroups": ["apps"], "resources": ["deployments"]} if served else _JOBS
        rules = [{**owner, "resourceNames": [name], "verbs": ["get"]}, task_pods]
        self.job_role = register(
            f"{account}-job-role",
            merge(objects["Role"], {"metadata": metadata, "rules": rules}),
            options,
        )
        binding = {"metadata": metadata, "roleRef": {"name": account}, "subjects": [subject]}
        self.job_binding = register(
            f"{account}-job-role-binding",
            merge(objects["RoleBinding"], binding),
            pulumi.ResourceOptions(parent=self, depends_on=[self.job_role, self.account]),
        )
        self.cron_job = register(
            f"{account}-schedule",
            backup_cron_job(name, workload, pods),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[self.binding, self.job_binding, self.task_account],
                replace_with=list(claims),
            ),
        )
        self.cron_job_name = name_of(self.cron_job)
        self.register_outputs({"cron_job_name": self.cron_job_name})


def backup_cron_job(name: str, workload: AnyWorkload, pods: PodSettings) -> Manifest:
    """The CronJob of one workload, complete."""
    account = backup_account(name)
    labels = workload_labels(name)
    tools = {
        "image": pods.images.tools,
        "envFrom": [{"configMapRef": {"name": config_map_name(workload.volume.claim)}}],
    }
    pod = {
        **user(pods.run_as),
        "serviceAccountName": account,
        "initContainers": [{"name": "backup", **tools}],
        "containers": [{"name": "prune", **tools}],
    }
    cron_job = merge(
        load("backup-cron-job"),
        {
            "metadata": {"name": account, "namespace": workload.namespace, "labels": labels},
            "spec": {
                "schedule": workload.schedule,
                "jobTemplate": {
                    "metadata": {"labels": labels},
                    "spec": {
                        # A backup, its one repetition if it strands, and the pruning.
                        "activeDeadlineSeconds": 3 * workload.backup_timeout,
                        "template": {"metadata": {"labels": labels}, "spec": pod},
                    },
                },
            },
        },
    )
    template = cron_job["spec"]["jobTemplate"]["spec"]["template"]
    template["spec"] = with_store(template["spec"], pods.store, {"prune": False})
    return cron_job

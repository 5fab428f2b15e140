"""What runs on a schedule for all that is protected: a backup by Kanister, then retention."""

from collections.abc import Sequence

import pulumi

from infra.kubernetes.kanister import Guarded
from infra.kubernetes.pods import PodSettings, user, with_store
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, load_all, merge, register
from infra.names import backup_account, workload_labels
from infra.settings import Schedule

#: What a restore pauses: its group and resource. In a queue the search begins at the Job.
OWNERS = {
    "job": ("batch", "jobs"),
    "topmost": ("batch", "jobs"),
    "deployment": ("apps", "deployments"),
}
#: Kueue's object for what it admits. It makes the names up, so rights cannot name them.
ADMITTED = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"]}


class Protection(pulumi.ComponentResource):
    """The schedule that backs one workload, or the pipeline, up.

    Produces: ServiceAccount and CronJob ``<name>-backup``, the ServiceAccounts of Kanister's tasks;
    in Kanister's namespace a Role and RoleBinding that let the first create ActionSets, within the
    admission policy; in its own those that let it see the Job or Deployment that a restore pauses,
    and remove pods of Kanister's tasks, within another policy. For what is in a queue, the Role and
    RoleBinding of the task that pauses it.
    """

    cron_job_name: pulumi.Output[str]
    """The CronJob's name."""

    def __init__(
        self,
        name: str,
        namespace: str,
        schedule: Schedule,
        what: Guarded,
        pods: PodSettings,
        kanister_namespace: str,
        claims: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: of the workload, or of the pipeline.
            namespace: where it is.
            schedule: when, and what stays.
            what: its account may ask Kanister for.
            pods: image, user and store of the schedule's pods.
            kanister_namespace: where ActionSets are made.
            claims: what its pods hold, finished ones too.
            opts: the parent, and what must exist first.
        """
        super().__init__("holdfast:protection:Protection", f"{name}-protection", {}, opts)
        account = backup_account(name)
        labels = workload_labels(name)
        metadata = {"name": account, "namespace": namespace, "labels": labels}
        options = pulumi.ResourceOptions(parent=self)
        self.account = register(
            f"{account}-account",
            merge(load("backup-service-account"), {"metadata": metadata}),
            options,
        )
        tasks = [
            register(
                f"{name}-{purpose}-account",
                merge(load("task-service-account"), {"metadata": {**metadata, "name": each}}),
                options,
            )
            for each, purpose in {what.restorer: "restorer", what.task: "task"}.items()
        ]

        role_name = f"holdfast-{namespace}-{account}"
        in_kanister = {"name": role_name, "namespace": kanister_namespace}
        objects = load_all("backup-role")
        self.role = register(
            f"{account}-role",
            merge(objects["Role"], {"metadata": {**in_kanister, "labels": labels}}),
            options,
        )
        subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
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
        group, resource = OWNERS[what.owner]
        owner = {"apiGroups": [group], "resources": [resource]}
        rules = [{**owner, "resourceNames": [what.paused], "verbs": ["get"]}, task_pods]
        before = []
        if what.owner == "topmost":
            rules.append({**ADMITTED, "verbs": ["list"]})
            before = self._may_pause(name, namespace, what, rules[0], options)
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
            backup_cron_job(name, namespace, schedule, what, pods),
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[self.binding, self.job_binding, *tasks, *before],
                replace_with=list(claims),
            ),
        )
        self.cron_job_name = name_of(self.cron_job)
        self.register_outputs({"cron_job_name": self.cron_job_name})

    def _may_pause(
        self,
        name: str,
        namespace: str,
        what: Guarded,
        sees_owner: Manifest,
        options: pulumi.ResourceOptions,
    ) -> list[pulumi.Resource]:
        """The Role of the tasks that pause and resume the topmost owner, and its binding."""
        account = what.restorer
        metadata = {"name": account, "namespace": namespace, "labels": workload_labels(name)}
        objects = load_all("pause-role")
        rules = [
            *objects["Role"]["rules"],
            sees_owner,
            {**ADMITTED, "verbs": ["list", "get", "patch"]},
        ]
        role = register(
            f"{name}-pause-role",
            merge(objects["Role"], {"metadata": metadata, "rules": rules}),
            options,
        )
        binding = {
            "metadata": metadata,
            "roleRef": {"name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
        bound = register(
            f"{name}-pause-role-binding",
            merge(objects["RoleBinding"], binding),
            pulumi.ResourceOptions(parent=self, depends_on=[role]),
        )
        return [role, bound]


def backup_cron_job(
    name: str, namespace: str, schedule: Schedule, what: Guarded, pods: PodSettings
) -> Manifest:
    """The CronJob of one workload or of the pipeline, complete. Its environment is the ConfigMap
    that has the name of the tasks' account."""
    account = backup_account(name)
    labels = workload_labels(name)
    tools = {
        "image": pods.images.tools,
        "envFrom": [{"configMapRef": {"name": what.task}}],
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
            "metadata": {"name": account, "namespace": namespace, "labels": labels},
            "spec": {
                "schedule": schedule.schedule,
                "jobTemplate": {
                    "metadata": {"labels": labels},
                    "spec": {
                        # A backup, its one repetition if it strands, and the pruning.
                        "activeDeadlineSeconds": 3 * schedule.backup_timeout,
                        "template": {"metadata": {"labels": labels}, "spec": pod},
                    },
                },
            },
        },
    )
    template = cron_job["spec"]["jobTemplate"]["spec"]["template"]
    template["spec"] = with_store(template["spec"], pods.store, {"prune": False})
    return cron_job

"""What runs on a schedule for all that is protected: a backup by Kanister, then retention."""

from collections.abc import Sequence

import pulumi

from infra.kubernetes.kanister import Guarded
from infra.kubernetes.pods import PodSettings, user, with_store
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, load_all, merge, register
from infra.names import OF_JOBS, backup_account, workload_labels
from infra.settings import Schedule

#: What a restore pauses: its group and resource.
OWNERS = {
    "job": ("batch", "jobs"),
    "jobset": ("jobset.x-k8s.io", "jobsets"),
    "trainjob": ("trainer.kubeflow.org", "trainjobs"),
    "deployment": ("apps", "deployments"),
    "statefulset": ("apps", "statefulsets"),
}
#: What Kueue admits Jobs by. It makes the names up, so rights cannot name them.
ADMITTED = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"]}


class Protection(pulumi.ComponentResource):
    """The schedule that backs one workload, or the pipeline, up.

    Produces: ServiceAccount and CronJob ``<name>-backup``, the ServiceAccounts of Kanister's tasks;
    in Kanister's namespace a Role and RoleBinding that let the first create ActionSets, within the
    admission policy; in its own those that let it see what a restore pauses, and remove pods of
    Kanister's tasks, within another policy. For what a task pauses, as what is in a queue or is
    someone else's, the Role and RoleBinding of that task.
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
        *,
        queued: bool = False,
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
            queued: whether it is Kueue that starts it, so that Kueue's object is what is paused.
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
        before = []
        if what.owner == "topmost":
            rules = [*rights_on_owner(what.paused), task_pods]
            before = self._may_pause(name, namespace, what, options, queued)
        else:
            rules = [_sees(what.owner, what.paused), task_pods]
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
        options: pulumi.ResourceOptions,
        queued: bool,
    ) -> list[pulumi.Resource]:
        """The Role of the tasks that pause and resume the topmost owner, and its binding."""
        account = what.restorer
        metadata = {"name": account, "namespace": namespace, "labels": workload_labels(name)}
        objects = load_all("pause-role")
        changes = rights_on_owner(what.paused, patch_it=not queued, patch_admitted=True)
        rules = [*objects["Role"]["rules"], *changes]
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


def rights_on_owner(
    paused: str, *, patch_it: bool = False, patch_admitted: bool = False
) -> list[Manifest]:
    """What the search for the topmost owner needs, and the pause of what it finds.

    Args:
        paused: where the search begins. RBAC can name an object, and no label: what is found by one
            is seen, and may be patched, among all of its kind in the namespace.
        patch_it: whether that object may be paused.
        patch_admitted: whether Kueue's object for it may be.
    """
    kind, _, which = paused.partition("/")
    found = _sees(kind, which)
    if patch_it:
        found["verbs"].append("patch")
    if kind == "statefulset" and patch_it:  # a Workload that Kueue keeps blocks its scaling
        return [found, {**ADMITTED, "verbs": ["list", "delete"]}]
    if kind not in OF_JOBS:
        return [found]
    return [found, {**ADMITTED, "verbs": ["list", *(["get", "patch"] if patch_admitted else [])]}]


def _sees(kind: str, which: str) -> Manifest:
    """The right to see one object by its name, or all of its kind to find one by a label."""
    group, resource = OWNERS[kind]
    kind_of = {"apiGroups": [group], "resources": [resource]}
    if "=" in which:
        return {**kind_of, "verbs": ["list", "get"]}
    return {**kind_of, "resourceNames": [which], "verbs": ["get"]}


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

from copy import deepcopy

import pytest

from infra.plan.graph import Graph
from policy.check import violations
from testkit.factories import BUCKET, environment, graph

W = "workloads__gpt__"


def job(graph: Graph, name: str = "gpt") -> dict:
    (resource,) = graph.find("Job", name)
    return resource.inputs


def pod(graph: Graph, name: str = "gpt") -> dict:
    return job(graph, name)["spec"]["template"]["spec"]


def trainer(graph: Graph, name: str = "gpt") -> dict:
    (container,) = pod(graph, name)["containers"]
    return container


def recover(graph: Graph) -> dict:
    (container,) = pod(graph)["initContainers"]
    return container


def outcome(spec: dict, container: str, code: int) -> str:
    """What Kubernetes does when a container ends with ``code``, by the Job's own rules."""
    template = spec["template"]["spec"]
    (found,) = [
        c for c in [*template["initContainers"], *template["containers"]] if c["name"] == container
    ]
    if code == 0:
        return "done"
    for rule in found["restartPolicyRules"]:
        codes = rule["exitCodes"]
        if (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"values": [], "operator": "In"})
        if codes.get("containerName", container) == container and code in codes["values"]:
            return rule["action"]
    return "Count"


@pytest.mark.parametrize(
    ("container", "code", "expected"),
    [
        ("trainer", 0, "done"),
        ("trainer", 1, "Restart"),
        ("trainer", 137, "Restart"),
        ("trainer", 74, "Count"),
        ("trainer", 75, "Ignore"),
        ("trainer", 76, "FailJob"),
        ("trainer", 255, "Count"),
        ("recover", 0, "done"),
        ("recover", 1, "Restart"),
        ("recover", 2, "FailJob"),
        ("recover", 76, "FailJob"),
        ("recover", 255, "Count"),
    ],
)
def test_each_exit_code_has_the_documented_outcome(local: Graph, container, code, expected):
    assert outcome(job(local)["spec"], container, code) == expected


@pytest.fixture(scope="module")
def restarting() -> Graph:
    return graph(**{f"{W}restart": "all-containers"})


@pytest.mark.parametrize("code", [1, 137, 143, 0, 74, 75, 76, 255])
def test_a_trainer_that_failed_starts_all_containers_where_the_setting_says_so(
    local: Graph, restarting: Graph, code: int
):
    alone = outcome(job(local)["spec"], "trainer", code)
    together = outcome(job(restarting)["spec"], "trainer", code)

    assert together == ("RestartAllContainers" if alone == "Restart" else alone)


def test_recover_that_failed_is_still_tried_again_alone(restarting: Graph):
    assert outcome(job(restarting)["spec"], "recover", 1) == "Restart"


def test_nothing_but_the_action_differs_where_all_containers_restart(restarting: Graph):
    changed = deepcopy(job(restarting))
    (rule,) = changed["spec"]["template"]["spec"]["containers"][0]["restartPolicyRules"]
    rule["action"] = "Restart"

    assert changed == job(graph())
    assert not violations(restarting)


def test_each_pod_of_several_nodes_restarts_its_own_containers():
    shared = {"kind": "nfs", "name": "shared", "size": "1Ti", "server": "nfs.example", "path": "/a"}
    declared = graph(
        backup_store=BUCKET,
        **{f"{W}volume": shared, f"{W}nodes": 2, f"{W}restart": "all-containers"},
    )

    assert outcome(job(declared)["spec"], "trainer", 1) == "RestartAllContainers"
    assert job(declared)["spec"]["completionMode"] == "Indexed"


def test_a_pod_that_was_told_to_stop_does_not_count_as_a_failure(local: Graph):
    """75: it saved. 143: it was still starting and had nothing to save."""
    rules = job(local)["spec"]["podFailurePolicy"]["rules"]

    assert {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75, 143]}} in rules


def test_a_drained_pod_does_not_count_as_a_failure(local: Graph):
    rules = job(local)["spec"]["podFailurePolicy"]["rules"]

    assert {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    } in rules


def test_a_new_pod_never_starts_beside_an_old_one(local: Graph):
    spec = job(local)["spec"]

    assert spec["podReplacementPolicy"] == "Failed"
    assert (spec["parallelism"], spec["completions"]) == (1, 1)
    (resource,) = local.find("Job", "gpt")
    assert resource.options.hooks == {"before_create": ("gpt-previous-job-is-gone",)}
    assert resource.inputs["metadata"]["annotations"] == {"pulumi.com/skipAwait": "true"}


def test_up_never_resumes_or_suspends_a_job(local: Graph):
    (resource,) = local.find("Job", "gpt")

    assert resource.options.ignore_changes == ("spec.suspend",)


def test_a_manual_rollout_leaves_the_running_template_alone():
    (resource,) = graph(**{f"{W}rollout": "manual"}).find("Job", "gpt")

    assert {"spec.suspend", "spec.template"} <= set(resource.options.ignore_changes)
    assert set(resource.options.replace_on_changes) <= set(resource.options.ignore_changes)


def test_a_change_of_what_a_job_cannot_change_replaces_it_old_one_first(local: Graph):
    (resource,) = local.find("Job", "gpt")

    assert "spec.podFailurePolicy" in resource.options.replace_on_changes
    assert resource.options.delete_before_replace


def test_no_pod_of_a_job_has_a_disruption_budget(local: Graph):
    assert local.find("PodDisruptionBudget") == []


def test_recovery_comes_before_user_code_on_the_same_volume(local: Graph):
    container = recover(local)
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}

    assert container["command"] == ["holdfast", "pull", "--if-empty"]
    assert environment(container)["HOLDFAST_VOLUME"] == mounts["volume"] == "/var/ml_model"
    assert (
        environment(container)["HOLDFAST_DECISION"]
        == environment(trainer(local))["HOLDFAST_DECISION"]
    )


def test_a_trainer_that_is_stopped_while_it_starts_hears_of_it(local: Graph):
    """As process 1 it would not: the kernel keeps a SIGTERM from it that it has no handler for."""
    assert pod(local)["shareProcessNamespace"] is True


def test_user_code_has_no_way_to_the_store(local: Graph):
    container = trainer(local)

    assert "store" not in {m["name"] for m in container["volumeMounts"]}
    assert [source for source in container["envFrom"] if "secretRef" in source] == []
    assert pod(local)["automountServiceAccountToken"] is False


def test_any_frameworks_trainer_can_be_the_workload():
    declared = graph(
        **{
            f"{W}image": "tensorflow/tensorflow:2.20.0",
            f"{W}command": ["python", "-m", "trainer.task"],
            f"{W}mount_path": "/models",
            f"{W}port": 9000,
            f"{W}env": {"TF_CPP_MIN_LOG_LEVEL": "1"},
        }
    )
    container = trainer(declared)

    assert container["image"] == "tensorflow/tensorflow:2.20.0"
    assert container["command"] == ["python", "-m", "trainer.task"]
    assert {"name": "volume", "mountPath": "/models"} in container["volumeMounts"]
    assert environment(container)["HOLDFAST_VOLUME"] == "/models"
    assert environment(container)["TF_CPP_MIN_LOG_LEVEL"] == "1"
    assert environment(container)["HOLDFAST_IMAGE"] == container["image"]
    (service,) = declared.find("Service", "gpt")
    assert container["ports"] == [{"name": "metrics", "containerPort": 9000}]
    assert service.inputs["spec"]["ports"] == [
        {"name": "metrics", "port": 9000, "targetPort": "metrics"}
    ]


def test_the_users_environment_wins_over_the_interval():
    declared = graph(**{f"{W}interval": 10, f"{W}env": {"HOLDFAST_TRAINING_SAVE_EVERY": "7"}})

    assert environment(trainer(declared))["HOLDFAST_TRAINING_SAVE_EVERY"] == "7"


def test_the_trainers_last_save_ends_before_the_pod_is_killed():
    declared = graph(**{f"{W}save_seconds": 300, f"{W}termination_grace_seconds": 300})
    patience = int(environment(trainer(declared))["HOLDFAST_TRAINING_SHUTDOWN_TIMEOUT"])

    assert patience < pod(declared)["terminationGracePeriodSeconds"] == 300


def test_the_service_selects_trainers_and_nothing_else_of_the_stack(local: Graph):
    (service,) = local.find("Service", "gpt")
    selector = service.inputs["spec"]["selector"].items()
    (cron_job,) = local.find("CronJob", "gpt-backup")
    backup_labels = cron_job.inputs["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]

    assert selector <= job(local)["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= backup_labels.items()


def test_gpus_are_asked_for_and_their_taint_tolerated():
    declared = graph(**{f"{W}gpus_per_node": 2})

    assert trainer(declared)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod(declared)["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "tolerations" not in pod(graph())


def test_shared_memory_is_in_memory_and_bounded():
    declared = graph(**{f"{W}shared_memory": "2Gi"})

    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in trainer(declared)["volumeMounts"]
    assert {
        "name": "shared-memory",
        "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"},
    } in pod(declared)["volumes"]


def test_the_settings_reach_the_environment_under_the_names_that_commands_read():
    declared = graph(
        **{
            f"{W}keep": 7,
            f"{W}start": "require",
            f"{W}push": "all",
            f"{W}grace": 90000,
            f"{W}backup_timeout": 1800,
            f"{W}retention": {"keep_last": 2, "hourly": 3, "daily": 4, "weekly": 5, "monthly": 6},
        }
    )
    (config_map,) = declared.find("ConfigMap", "holdfast-checkpoints-pvc")

    assert config_map.inputs["data"] == {
        "HOLDFAST_STORE": "file:///var/lib/holdfast/store/holdfast/test",
        "HOLDFAST_OWNER": "holdfast/test",
        "HOLDFAST_WORKLOAD": "gpt",
        "HOLDFAST_RUN": "demo",
        "HOLDFAST_KEEP": "7",
        "HOLDFAST_START": "require",
        "HOLDFAST_PUSH": "all",
        "HOLDFAST_DEADLINE": "1800",
        "HOLDFAST_TIMEOUT": "1800",
        "HOLDFAST_RETENTION_KEEP_LAST": "2",
        "HOLDFAST_RETENTION_HOURLY": "3",
        "HOLDFAST_RETENTION_DAILY": "4",
        "HOLDFAST_RETENTION_WEEKLY": "5",
        "HOLDFAST_RETENTION_MONTHLY": "6",
        "HOLDFAST_GRACE": "90000",
        "HOLDFAST_KANISTER_NAMESPACE": "kanister",
        "HOLDFAST_NAMESPACE": "training",
        "HOLDFAST_CLAIM": "checkpoints-pvc",
        "HOLDFAST_BLUEPRINT": "checkpoints",
        "HOLDFAST_JOB": "gpt",
    }


def test_a_new_run_is_a_new_job_and_none_that_a_restarted_container_of_the_old_one_joins():
    old, new = graph(), graph(**{f"{W}run": "later"})

    for kind in ("initContainers", "containers"):
        (before,), (after,) = pod(old)[kind], pod(new)[kind]
        assert environment(before)["HOLDFAST_RUN"] == "demo"
        assert environment(after)["HOLDFAST_RUN"] == "later"


def test_a_new_stack_can_take_up_the_store_of_a_lost_one():
    declared = graph(
        backup_store={
            "existing": {"url": "s3://backups/team", "endpoint": "http://minio:9000"},
            "prefix": "holdfast/old",
            "owner": "holdfast/old",
        }
    )
    (config_map,) = declared.find("ConfigMap", "holdfast-checkpoints-pvc")
    data = config_map.inputs["data"]

    assert data["HOLDFAST_STORE"] == "s3://backups/team/holdfast/old"
    assert data["HOLDFAST_OWNER"] == "holdfast/old"
    assert data["AWS_ENDPOINT_URL"] == "http://minio:9000"
    assert data["AWS_ALLOW_HTTP"] == "true"

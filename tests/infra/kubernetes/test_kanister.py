import json
import re

import pytest

from infra.plan.graph import Graph
from testkit.factories import graph, tasks

ACTIONSETS, TASK_PODS = "holdfast-actionsets", "holdfast-task-pods"
GPT = {
    "blueprint": "checkpoints",
    "kind": "pvc",
    "name": "checkpoints-pvc",
    "task": "holdfast-checkpoints-pvc",
    "restorer": "holdfast-checkpoints-pvc",
    "owner": "job",
    "paused": "gpt",
}


def test_the_blueprint_keeps_its_actions(local: Graph):
    """The SDK's own ways to declare a custom object drop every top-level field but spec."""
    (blueprint,) = local.find("kubernetes:cr.kanister.io/v1alpha1:Blueprint")

    assert set(blueprint.inputs["actions"]) == {"backup", "restore", "resume", "verify", "delete"}
    assert blueprint.inputs["metadata"]["namespace"] == "kanister"
    assert blueprint.options.version


def test_the_operator_is_pinned_named_and_may_not_change_crds(local: Graph):
    (release,) = local.find("Release")
    values = release.inputs["values"]

    assert release.inputs["name"] == "kanister"
    assert release.inputs["version"] == "0.119.0"
    assert values["controller"]["updateCRDs"] is False
    assert values["bpValidatingWebhook"] == {"enabled": False}
    assert {"requests", "limits"} == values["resources"].keys()
    assert release.inputs["atomic"] is True


def test_helm_values_of_the_settings_are_merged_over_ours():
    (release,) = graph(
        kanister={"values": {"image": {"repository": "mirror/controller"},
                             "controller": {"logLevel": "debug"}}}
    ).find("Release")  # fmt: skip

    assert release.inputs["values"]["image"] == {"repository": "mirror/controller"}
    assert release.inputs["values"]["controller"] == {
        "updateCRDs": False,
        "metrics": {"enabled": True},
        "logLevel": "debug",
    }


@pytest.mark.parametrize("chart", ["./charts/kanister", "/charts/kanister.tgz", "oci://a/kanister"])
def test_a_chart_on_disk_or_in_an_image_registry_needs_no_repository(chart: str):
    (release,) = graph(kanister={"chart": chart}).find("Release")

    assert release.inputs["chart"] == chart
    assert "repositoryOpts" not in release.inputs


def test_kanister_gets_the_least_rights_that_its_functions_need(local: Graph):
    (role,) = local.find("Role", "holdfast-kanister")
    (binding,) = local.find("RoleBinding", "holdfast-kanister")
    rights = {
        (resource, verb)
        for rule in role.inputs["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    assert rights == {
        ("pods", "create"), ("pods", "get"), ("pods", "delete"), ("pods/log", "get"),
        ("jobs", "get"), ("jobs", "patch"),
    }  # fmt: skip
    assert binding.inputs["subjects"] == [
        {
            "kind": "ServiceAccount",
            "name": "kanister-kanister-operator",
            "namespace": "kanister",
        }
    ]
    assert role.inputs["metadata"]["namespace"] == "training"


def test_no_role_of_the_stack_has_a_wildcard_or_reads_secrets(local: Graph):
    for role in [*local.find("Role"), *local.find("ClusterRole")]:
        for rule in role.inputs["rules"]:
            values = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert values.isdisjoint({"*", "secrets", "pods/exec", "escalate", "bind"})


def test_the_backup_account_may_only_handle_actionsets(local: Graph):
    (role,) = local.find("Role", "holdfast-training-gpt-backup")

    assert role.inputs["metadata"]["namespace"] == "kanister"
    assert role.inputs["rules"] == [
        {
            "apiGroups": ["cr.kanister.io"],
            "resources": ["actionsets"],
            "verbs": ["create", "get", "list", "delete"],
        }
    ]


@pytest.mark.parametrize(("name", "guarded"), [(ACTIONSETS, ["actionsets"]), (TASK_PODS, ["pods"])])
def test_an_admission_policy_denies_and_fails_closed(local: Graph, name: str, guarded: list[str]):
    (policy,) = local.find("ValidatingAdmissionPolicy", name)
    (binding,) = local.find("ValidatingAdmissionPolicyBinding", name)

    assert policy.inputs["spec"]["failurePolicy"] == "Fail"
    (rule,) = policy.inputs["spec"]["matchConstraints"]["resourceRules"]
    assert rule["resources"] == guarded
    assert binding.inputs["spec"]["validationActions"] == ["Deny"]
    assert binding.inputs["spec"]["policyName"] == policy.inputs["metadata"]["name"]


@pytest.mark.parametrize("kanister", ["kanister", "backup-operator"])
def test_the_policy_holds_each_account_to_its_claim_in_our_operators_namespace(kanister):
    declared = graph(kanister={"namespace": kanister})
    (policy,) = declared.find("ValidatingAdmissionPolicy", ACTIONSETS)
    (binding,) = declared.find("ValidatingAdmissionPolicyBinding", ACTIONSETS)
    conditions = {c["name"]: c["expression"] for c in policy.inputs["spec"]["matchConditions"]}
    variables = {v["name"]: v["expression"] for v in policy.inputs["spec"]["variables"]}

    assert json.loads(variables["accounts"]) == {"training.gpt-backup": GPT}
    assert conditions["of-a-workload-namespace"].endswith(' in ["training"]')
    assert binding.inputs["spec"]["matchResources"]["namespaceSelector"] == {
        "matchLabels": {"kubernetes.io/metadata.name": kanister}
    }


def test_what_others_of_a_namespace_delete_is_for_rbac_to_say(local: Graph):
    """A controller of someone else's in the same namespace must be able to delete its own pods."""
    (policy,) = local.find("ValidatingAdmissionPolicy", TASK_PODS)
    (condition,) = policy.inputs["spec"]["matchConditions"]

    accounts = '["system:serviceaccount:training:gpt-backup"]'
    assert condition["expression"] == f"request.userInfo.username in {accounts}"


def test_the_policy_has_no_parameters_that_an_api_server_would_read_stale(local: Graph):
    """kubernetes#130887: after destroy and up, ConfigMap parameters are those of before."""
    (policy,) = local.find("ValidatingAdmissionPolicy", ACTIONSETS)
    (binding,) = local.find("ValidatingAdmissionPolicyBinding", ACTIONSETS)

    assert "paramKind" not in policy.inputs["spec"]
    assert "paramRef" not in binding.inputs["spec"]


def test_the_policy_forbids_every_field_that_could_change_what_a_task_does(local: Graph):
    (policy,) = local.find("ValidatingAdmissionPolicy", ACTIONSETS)
    text = " ".join(rule["expression"] for rule in policy.inputs["spec"]["validations"])

    for field in ("podOverride", "profile", "secrets", "configMaps", "artifacts",
                  "podLabels", "podAnnotations"):  # fmt: skip
        assert f"!has(a.{field})" in text
    assert "a.name in ['backup', 'verify', 'resume']" in text


def test_a_workloads_account_resumes_its_own_job_and_nothing_else(local: Graph):
    (policy,) = local.find("ValidatingAdmissionPolicy", ACTIONSETS)
    (rule,) = [r for r in policy.inputs["spec"]["validations"] if "own Job" in r["message"]]
    accounts = {account for role in local.find("RoleBinding") if "gpt-backup" in role.name
                for account in [s["name"] for s in role.inputs["subjects"]]}  # fmt: skip
    (job,) = local.find("Job", "gpt")

    assert "a.options[variables.mine['owner']] == variables.mine['paused']" in rule["expression"]
    assert "a.options.all(key, key == variables.mine['owner'] || " in rule["expression"]
    assert accounts == {f"{job.inputs['metadata']['name']}-backup"}


def test_a_backup_account_deletes_pods_of_tasks_on_its_own_claim_and_no_others(local: Graph):
    """RBAC knows no labels: without the policy it could delete the trainer."""
    (policy,) = local.find("ValidatingAdmissionPolicy", TASK_PODS)
    spec = policy.inputs["spec"]
    (rule,) = spec["validations"]
    (task_account,) = local.find("ServiceAccount", "holdfast-checkpoints-pvc")
    (blueprint,) = local.find("Blueprint")

    assert spec["matchConstraints"]["resourceRules"][0]["operations"] == ["DELETE"]
    accounts = json.loads(spec["variables"][0]["expression"])
    assert accounts == {"training.gpt-backup": GPT}
    assert "oldObject.metadata.labels['createdBy'] == 'kanister'" in rule["expression"]
    assert "request.namespace == request.userInfo.username.split(':')[2]" in rule["expression"]
    # Of all pods of a namespace, only a workload's own tasks run as this account.
    assert "oldObject.spec.serviceAccountName in [variables.accounts" in rule["expression"]
    assert task_account.inputs["metadata"]["name"] == GPT["task"] == GPT["restorer"]
    assert all(
        task["args"]["podOverride"]["serviceAccountName"] == "holdfast-{{ .PVC.Name }}"
        for task in tasks(blueprint.inputs)
    )


def test_the_backup_account_sees_its_own_job_and_changes_none(local: Graph):
    (role,) = local.find("Role", "gpt-backup")
    (binding,) = local.find("RoleBinding", "gpt-backup")

    assert role.inputs["metadata"]["namespace"] == "training"
    assert role.inputs["rules"] == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": ["gpt"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"]},
    ]
    (subject,) = binding.inputs["subjects"]
    assert subject["name"] == "gpt-backup"


@pytest.mark.parametrize("name", [ACTIONSETS, TASK_PODS])
def test_variables_of_a_policy_are_no_reserved_words(local: Graph, name: str):
    """The API server refuses `namespace` and the other words that CEL keeps for itself."""
    reserved = {"as", "break", "const", "continue", "else", "false", "for", "function", "if",
                "import", "in", "let", "loop", "namespace", "null", "package", "return", "true",
                "var", "void", "while"}  # fmt: skip
    (policy,) = local.find("ValidatingAdmissionPolicy", name)
    names = {variable["name"] for variable in policy.inputs["spec"]["variables"]}

    assert names.isdisjoint(reserved)
    used = re.findall(r"variables\.(\w+)", str(policy.inputs["spec"]))
    assert set(used) <= names


def test_the_schedule_backs_up_and_then_prunes_one_at_a_time(local: Graph):
    (cron_job,) = local.find("CronJob", "gpt-backup")
    spec = cron_job.inputs["spec"]
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]

    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["timeZone"] == "Etc/UTC"
    assert [c["command"] for c in pod["initContainers"]] == [["holdfast", "backup"]]
    assert [c["command"] for c in pod["containers"]] == [["holdfast", "prune"]]
    assert pod["serviceAccountName"] == "gpt-backup"


def test_the_schedules_deadline_leaves_time_for_a_backup_that_is_issued_twice():
    (cron_job,) = graph(workloads__gpt__backup_timeout=900).find("CronJob", "gpt-backup")

    assert cron_job.inputs["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 2700

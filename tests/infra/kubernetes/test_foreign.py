"""Pods and a claim of someone else's: what is declared for them, and what each account may do."""

import json
from typing import Any

import pytest

from holdfast.control.topmost import KINDS
from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.kubernetes.preflight import check
from infra.kubernetes.protection import OWNERS
from infra.names import OF_JOBS
from infra.plan.graph import Graph
from infra.settings import parse
from policy.check import violations
from testkit import factories, schemas
from testkit.factories import BUCKET, FOREIGN, graph, problems
from tests.golden import compare
from tests.infra.kubernetes.fake_kubectl import Cluster, thing
from tests.infra.plan.test_golden import GOLDEN, as_text

L = "workloads__llama"
KUEUE = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"]}
PODS = {"apiGroups": [""], "resources": ["pods"]}
NAME, LABEL = {"name": "llama"}, {"label": "team/run=llama"}


@pytest.fixture(scope="module")
def declared() -> Graph:
    """The stack's own training, and beside it what someone else runs in another namespace."""
    return graph(**{L: FOREIGN})


def owned(**owner: Any) -> Graph:
    return graph(**{L: {**FOREIGN, "owner": owner}})


def rules(graph: Graph, name: str) -> list[dict[str, Any]]:
    (role,) = graph.find("Role", name)
    return role.inputs["rules"]


def test_its_protection_is_declared_and_no_job_deployment_or_claim_of_its_own(declared: Graph):
    here = {
        (m["kind"], m["metadata"]["name"])
        for m in declared.kubernetes()
        if m["metadata"].get("namespace") == "team-a"
    }

    assert here == {
        ("ConfigMap", "holdfast-llama-checkpoints"),
        ("ConfigMap", "holdfast-publisher"),
        ("CronJob", "llama-backup"),
        ("NetworkPolicy", "holdfast-tasks"),
        ("PersistentVolumeClaim", "holdfast-store-pvc"),  # the backups, as the tasks mount them
        ("Role", "holdfast-kanister"),
        ("Role", "holdfast-llama-checkpoints-pause"),
        ("Role", "llama-backup"),
        ("RoleBinding", "holdfast-kanister"),
        ("RoleBinding", "holdfast-llama-checkpoints-pause"),
        ("RoleBinding", "llama-backup"),
        ("ServiceAccount", "holdfast-llama-checkpoints"),
        ("ServiceAccount", "holdfast-llama-checkpoints-pause"),
        ("ServiceAccount", "holdfast-publisher"),
        ("ServiceAccount", "llama-backup"),
    }
    assert not declared.find("Namespace", "team-a")
    assert declared.find("Blueprint", "topmost")


def test_every_object_is_one_that_kubernetes_takes_and_the_policies_hold(declared: Graph):
    for manifest in declared.kubernetes():
        if not manifest["apiVersion"].startswith(("cr.kanister.io", "trainer.kubeflow.org")):
            schemas.check(manifest)
    assert not violations(declared)


def test_a_stack_may_protect_what_others_run_and_nothing_else():
    alone = factories.collected("test", json.dumps(factories.valid(workloads={"llama": FOREIGN})))

    assert not alone.find("kubernetes:batch/v1:Job", "llama")
    assert [b.object_name for b in alone.find("Blueprint")] == ["topmost"]
    assert alone.outputs["backup_schedules"] == {"llama": "llama-backup"}
    assert alone.outputs["persistent_volume_claims"] == {"llama": "llama-checkpoints"}
    assert not {"training_jobs", "applications", "services", "training_job_name"} & set(
        alone.outputs
    )
    assert not violations(alone)


def test_the_graph_of_what_others_run_is_the_reviewed_one():
    data = factories.valid(backup_store=BUCKET, workloads={"llama": FOREIGN})

    compare(GOLDEN / "protected.yaml", as_text(factories.collected("test", json.dumps(data))))


def test_what_restore_reads_names_blueprint_claim_run_and_owner(declared: Graph):
    (environment,) = declared.find("ConfigMap", "holdfast-llama-checkpoints")
    data = environment.inputs["data"]

    assert data["HOLDFAST_PAUSE"] == "trainjob/holdfast.dev/workload=llama"
    assert data["HOLDFAST_BLUEPRINT"] == "topmost"
    assert (data["HOLDFAST_WORKLOAD"], data["HOLDFAST_RUN"]) == ("llama", "llama-7b")
    assert (data["HOLDFAST_NAMESPACE"], data["HOLDFAST_CLAIM"]) == ("team-a", "llama-checkpoints")
    assert not {"HOLDFAST_JOB", "HOLDFAST_DEPLOYMENT"} & data.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_by_its_name_that_one_object_may_be_paused(kind: str):
    found = owned(kind=kind, **NAME)
    group, resource = OWNERS[kind]
    named = {"apiGroups": [group], "resources": [resource], "resourceNames": ["llama"]}
    queued = kind in OF_JOBS

    assert rules(found, "holdfast-llama-checkpoints-pause") == [
        {**PODS, "verbs": ["list"]},
        {**named, "verbs": ["get", "patch"]},
        *([{**KUEUE, "verbs": ["list", "get", "patch"]}] if queued else []),
        *([{**KUEUE, "verbs": ["list", "delete"]}] if kind == "statefulset" else []),
    ]
    assert rules(found, "llama-backup") == [
        {**named, "verbs": ["get"]},
        *([{**KUEUE, "verbs": ["list"]}] if queued else []),
        {**PODS, "verbs": ["list", "delete"]},
    ]


def test_by_a_label_one_of_its_kind_may_be_paused_and_of_no_other_kind():
    found = owned(kind="jobset", **LABEL)
    of_kind = {"apiGroups": ["jobset.x-k8s.io"], "resources": ["jobsets"]}

    assert rules(found, "holdfast-llama-checkpoints-pause") == [
        {**PODS, "verbs": ["list"]},
        {**of_kind, "verbs": ["list", "get", "patch"]},
        {**KUEUE, "verbs": ["list", "get", "patch"]},
    ]
    assert rules(found, "llama-backup")[0] == {**of_kind, "verbs": ["list", "get"]}
    (environment,) = found.find("ConfigMap", "holdfast-llama-checkpoints")
    assert environment.inputs["data"]["HOLDFAST_PAUSE"] == "jobset/team/run=llama"


def test_by_the_label_of_a_workload_the_jobs_of_its_schedule_are_not_meant():
    (schedule,) = owned(kind="job").find("CronJob", "llama-backup")
    labels = schedule.inputs["spec"]["jobTemplate"]["metadata"]["labels"]

    assert labels["holdfast.dev/workload"] == "llama"  # the same label
    assert labels["app.kubernetes.io/part-of"] == "holdfast"  # which the search leaves out


def test_the_stack_and_the_command_know_the_same_owners():
    known = {kind: (group, resource) for kind, (group, resource) in OWNERS.items()}

    assert known == {k: (each.api.split("/")[0], each.resource) for k, each in KINDS.items()}
    assert {k for k, each in KINDS.items() if each.field == "suspend"} == set(OF_JOBS)


def test_kanister_gets_no_right_on_what_others_run(declared: Graph):
    roles = [
        role.inputs
        for role in declared.find("Role", "holdfast-kanister")
        if role.inputs["metadata"]["namespace"] == "team-a"
    ]

    assert {name for role in roles for rule in role["rules"] for name in rule["resources"]} == {
        "pods", "pods/log",
    }  # fmt: skip


def test_tasks_go_to_nodes_with_gpus_where_the_pods_of_others_may_be(declared: Graph):
    (blueprint,) = declared.find("Blueprint", "topmost")
    push = blueprint.inputs["actions"]["backup"]["phases"][0]["args"]["podOverride"]

    assert [each["key"] for each in push["tolerations"]] == ["nvidia.com/gpu"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({f"{L}__owner": {"kind": "pod", "name": "a"}}, "workloads.llama.owner.kind: 'pod' is not "
         "known: use one of job, jobset, trainjob, deployment, statefulset"),
        ({f"{L}__owner": {"kind": "job", **NAME, **LABEL}}, "workloads.llama.owner: name llama and "
         "label team/run=llama are given: give one of them, or neither"),
        ({f"{L}__owner": {"kind": "job", "label": "llama"}}, "workloads.llama.owner.label: 'llama' "
         "is not a label: write KEY=VALUE, such as team/run=llama"),
        ({f"{L}__owner": {"kind": "job", "name": "a/b"}}, "workloads.llama.owner.name: 'a/b' is "
         "not an object's name: use lower-case letters, digits, '-' and '.', a letter or digit "
         "first and last"),
        ({f"{L}__volume__kind": "host-path"}, "workloads.llama.volume.kind: 'host-path' is not "
         "known: use one of existing-claim"),
        ({f"{L}__bundle_size": "300Gi"}, "workloads.llama: volume of 1Ti cannot hold 5 bundles of "
         "300Gi (keep 3, pinned 0, one saving, one staged): use at least 1500Gi, or keep fewer"),
        ({f"{L}__queue": "gpus"}, "workloads.llama.queue: unknown key: use one of "),
        ({f"{L}__kind": "theirs"}, "workloads.llama.kind: 'theirs' is not known: use one of "
         "training, deployment, protected"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line_with_the_remedy(changes: dict[str, Any], line: str):
    (found,) = problems(**{L: FOREIGN, **changes})

    assert found.startswith(line)


def test_a_claim_that_is_not_there_stops_before_anything_is_made(cluster: Cluster):
    job = {**FOREIGN, "owner": {"kind": "job"}}
    settings = parse(factories.valid(**{L: job}))

    with pytest.raises(ClusterError, match=r"llama.namespace: there is no namespace team-a"):
        check(settings, Kubectl(settings.access))
    cluster.set(thing("Namespace", "team-a"))
    with pytest.raises(ClusterError, match="there is no PersistentVolumeClaim llama-checkpoints"):
        check(settings, Kubectl(settings.access))
    cluster.set(
        thing("Namespace", "team-a"),
        thing("PersistentVolumeClaim", "llama-checkpoints", "team-a"),
    )
    check(settings, Kubectl(settings.access))

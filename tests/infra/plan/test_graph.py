import json

import pulumi
import pytest

from infra.plan import render
from infra.plan.__main__ import main
from infra.plan.graph import Graph, collect
from infra.settings import HostPathVolume, load
from infra.stack import declare
from testkit.factories import BUCKET, HOST_PATH, graph, of_stack, settings


def test_preview_and_up_declare_the_same_resources():
    """A resource made inside an apply is missing where outputs are not known yet."""
    up, preview = of_stack("local"), of_stack("local", preview=True)

    assert [r.urn for r in preview.resources] == [r.urn for r in up.resources]
    assert [r.inputs for r in preview.resources] == [r.inputs for r in up.resources]


def test_the_graph_can_be_collected_again_and_again():
    first, second = of_stack("local"), collect(load("local"), "local")
    other = graph("other", workloads__gpt__run="later")

    assert first == second
    assert {r.urn.split("::")[0] for r in other.resources} == {"urn:pulumi:other"}


def test_a_program_that_fails_fails_the_collection():
    def program(_):
        raise RuntimeError("no such zone")

    with pytest.raises(RuntimeError, match="no such zone"):
        collect(settings(), "test", program=program)


def test_what_a_program_declares_inside_an_apply_is_found_missing_in_a_preview():
    """The comparison above has teeth."""

    def program(given):
        outputs = declare(given)
        pulumi.ComponentResource("t:t:Known", "known").urn.apply(
            lambda _: (
                None if pulumi.runtime.is_dry_run() else pulumi.ComponentResource("t:t:L", "late")
            )
        )
        return outputs

    up = collect(settings(), "test", program=program)
    preview = collect(settings(), "test", preview=True, program=program)

    assert {r.name for r in up.resources} - {r.name for r in preview.resources} == {"late"}


def test_every_object_goes_to_the_stacks_cluster_and_never_to_a_default_one(local: Graph):
    (provider,) = local.find("pulumi:providers:kubernetes")

    assert provider.inputs["clusterIdentifier"] == "local"
    for resource in local.resources:
        if resource.type.startswith("kubernetes:"):
            assert resource.options.provider == provider.urn, resource.urn


def test_context_and_kubeconfig_reach_the_provider():
    (provider,) = graph(kubernetes={"context": "kind", "kubeconfig": "/home/me/kube"}).find(
        "pulumi:providers:kubernetes"
    )

    assert provider.inputs["context"] == "kind"
    assert provider.inputs["kubeconfig"] == "/home/me/kube"


def test_the_persistent_volume_object_is_neither_retained_nor_protected(local: Graph):
    """A kept object makes the next `up` fail on its name; the data stay by the reclaim policy."""
    volumes = local.find("PersistentVolume")

    assert volumes
    for volume in volumes:
        assert not volume.options.retain_on_delete
        assert volume.inputs["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


def test_every_namespaced_object_is_in_a_namespace_that_the_stack_makes(local: Graph):
    cluster_wide = {"Namespace", "PersistentVolume", "ValidatingAdmissionPolicy",
                    "ValidatingAdmissionPolicyBinding"}  # fmt: skip
    made = {r.inputs["metadata"]["name"] for r in local.find("Namespace")}

    for manifest in local.kubernetes():
        namespace = manifest["metadata"].get("namespace")
        expected = {None} if manifest["kind"] in cluster_wide else made
        assert namespace in expected, manifest["metadata"]["name"]


def test_destroy_never_waits_for_a_pod_that_keeps_a_claim(local: Graph):
    """The namespace goes, and with it pods and claims, while the volumes wait for their claims."""
    for name, claim in (("checkpoints", "checkpoints-pvc"), ("store", "holdfast-store-pvc")):
        (declared,) = local.find("PersistentVolumeClaim", claim)
        (namespace,) = local.find("Namespace", "training")
        (volume,) = [v for v in local.find("PersistentVolume") if name in (v.object_name or "")]

        assert declared.options.deleted_with == namespace.urn
        assert namespace.urn in everything_before(local, declared.urn)
        assert volume.urn in everything_before(local, namespace.urn)


def test_a_namespace_of_the_users_own_deletes_no_claim_of_ours():
    existing = {"kind": "existing-claim", "name": "mine", "size": "1Ti"}
    nfs = {"kind": "nfs", "name": "store", "size": "1Ti", "server": "a", "path": "/a"}
    other = {"run": "x", "volume": {**nfs, "name": "second", "path": "/b"}}
    declared = graph(
        workloads={"gpt": {"run": "x", "volume": existing}, "other": other},
        backup_store=BUCKET,
    )
    (claim,) = declared.find("PersistentVolumeClaim")

    assert declared.find("Namespace", "training") == []
    assert claim.options.deleted_with is None


def test_what_holds_a_claim_is_replaced_with_it(local: Graph):
    """Kubernetes deletes no claim under a pod, and a finished one counts."""
    (data,) = local.find("PersistentVolumeClaim", "checkpoints-pvc")
    (store,) = local.find("PersistentVolumeClaim", "holdfast-store-pvc")

    assert {data.urn, store.urn} <= set(local.find("Job", "gpt")[0].options.replace_with)
    assert store.urn in local.find("CronJob", "gpt-backup")[0].options.replace_with
    assert data.options.replace_on_changes == ("spec.resources",)
    assert data.options.delete_before_replace


def test_objects_wait_for_what_they_need_and_go_before_it(local: Graph):
    def waits_for(resource: str, other: str) -> bool:
        return named(other) in everything_before(local, named(resource))

    def named(kind_and_name: str) -> str:
        kind, name = kind_and_name.split()
        (resource,) = local.find(kind, name)
        return resource.urn

    assert waits_for("Job gpt", "PersistentVolumeClaim checkpoints-pvc")
    assert waits_for("Job gpt", "PersistentVolumeClaim holdfast-store-pvc")
    assert waits_for("Job gpt", "Job prepare-checkpoints")
    assert waits_for("Job gpt", "Job prepare-holdfast-store")
    assert waits_for("Job gpt", "ConfigMap holdfast-checkpoints-pvc")
    assert waits_for("Job gpt", "Namespace training")
    assert waits_for("Job prepare-checkpoints", "Namespace holdfast-system")
    assert waits_for("Blueprint checkpoints", "Release kanister")
    assert waits_for("ValidatingAdmissionPolicy holdfast-actionsets", "Release kanister")
    assert waits_for("Release kanister", "Namespace kanister")
    assert waits_for("CronJob gpt-backup", "Blueprint checkpoints")
    assert waits_for("CronJob gpt-backup", "RoleBinding holdfast-kanister")
    assert waits_for("CronJob gpt-backup", "ValidatingAdmissionPolicyBinding holdfast-actionsets")
    assert waits_for("CronJob gpt-backup", "ValidatingAdmissionPolicyBinding holdfast-task-pods")
    assert not waits_for("Job gpt", "Release kanister")


def everything_before(graph: Graph, urn: str) -> set[str]:
    """What exists before ``urn`` does: dependencies, those of the components around it, and of its
    provider."""
    found: set[str] = set()
    todo = [urn]
    while todo:
        options = graph[todo.pop()].options
        parents = [options.parent] if options.parent in {r.urn for r in graph.resources} else []
        provider = [options.provider] if options.provider else []
        for other in {*options.depends_on, *parents, *provider} - found:
            found.add(other)
            todo.append(other)
    return found


def test_the_exports_name_the_first_workload_and_map_all():
    claim = {"kind": "existing-claim", "name": "shared", "size": "1Ti"}
    workloads = {
        "gpt": {"run": "a", "volume": HOST_PATH},
        "bert": {"run": "b", "namespace": "team-b", "volume": claim},
    }

    assert graph(workloads=workloads).outputs == {
        "persistent_volume_name": "checkpoints-vol",
        "persistent_volume_claim_name": "checkpoints-pvc",
        "training_job_name": "gpt",
        "persistent_volumes": {"gpt": "checkpoints-vol"},
        "persistent_volume_claims": {"gpt": "checkpoints-pvc", "bert": "shared"},
        "training_jobs": {"gpt": "gpt", "bert": "bert"},
        "services": {"gpt": "gpt", "bert": "bert"},
        "backup_schedules": {"gpt": "gpt-backup", "bert": "bert-backup"},
        "namespaces": {"gpt": "training", "bert": "team-b"},
        "publishers": {"training": "holdfast-publisher", "team-b": "holdfast-publisher"},
        "assets_prune_schedule": "holdfast-prune",
    }


def test_an_existing_claim_first_exports_no_volume_of_ours():
    claim = {"kind": "existing-claim", "name": "shared", "size": "1Ti"}
    outputs = graph(workloads__gpt__volume=claim, backup_store=BUCKET).outputs

    assert "persistent_volume_name" not in outputs
    assert outputs["persistent_volume_claim_name"] == "shared"


def test_a_store_in_a_bucket_and_an_existing_claim_need_nothing_of_a_node():
    claim = {"kind": "existing-claim", "name": "shared", "size": "1Ti"}
    declared = graph(workloads__gpt__volume=claim, backup_store=BUCKET)

    kinds = {manifest["kind"] for manifest in declared.kubernetes()}
    assert kinds.isdisjoint({"PersistentVolume", "PersistentVolumeClaim"})
    assert declared.find("Namespace", "holdfast-system") == []


@pytest.mark.parametrize("place", ["workloads__gpt__volume", "backup_store"])
def test_a_namespace_that_holds_a_claim_of_someone_elses_is_not_ours_to_make_or_destroy(place):
    claim = {"kind": "existing-claim", "name": "shared", "size": "1Ti"}
    declared = graph(**{place: claim if place != "backup_store" else {"volume": claim}})

    assert declared.find("Namespace", "training") == []
    assert declared.find("Job", "gpt")


def test_several_namespaces_each_get_what_they_need_once():
    volumes = {n: {**HOST_PATH, "name": n, "path": f"/data/{n}"} for n in ("a", "b", "c")}
    workloads = {
        "one": {"run": "x", "namespace": "team-1", "volume": volumes["a"]},
        "two": {"run": "x", "namespace": "team-2", "volume": volumes["b"]},
        "three": {"run": "x", "namespace": "team-1", "volume": volumes["c"]},
    }
    declared = graph(workloads=workloads)

    assert len(declared.find("Namespace")) == 4
    claims = {
        (c.inputs["metadata"]["namespace"], c.inputs["spec"]["volumeName"])
        for c in declared.find("PersistentVolumeClaim", "holdfast-store-pvc")
    }
    assert claims == {
        ("team-1", "holdfast-store-team-1-vol"),
        ("team-2", "holdfast-store-team-2-vol"),
    }
    stores = [v for v in declared.find("PersistentVolume") if "store" in v.name]
    assert {v.inputs["spec"]["hostPath"]["path"] for v in stores} == {"/data/store"}
    (policy,) = declared.find("ValidatingAdmissionPolicy", "holdfast-actionsets")
    variables = {v["name"]: v["expression"] for v in policy.inputs["spec"]["variables"]}
    accounts = json.loads(variables["accounts"])
    assert {account: may["name"] for account, may in accounts.items()} == {
        "team-1.one-backup": "a-pvc",
        "team-2.two-backup": "b-pvc",
        "team-1.three-backup": "c-pvc",
    }


def test_no_name_or_value_of_the_settings_is_lost_between_kinds_of_volume(local: Graph):
    volume = load("local").workloads["gpt"].volume
    assert isinstance(volume, HostPathVolume)
    (declared,) = local.find("PersistentVolume", "checkpoints-vol")
    spec = declared.inputs["spec"]

    assert spec["storageClassName"] == "manual"
    assert spec["capacity"] == {"storage": "10Gi"}
    assert spec["accessModes"] == ["ReadWriteOnce"]
    assert spec["hostPath"]["path"] == volume.path
    assert volume.node in json.dumps(spec["nodeAffinity"])


def test_the_tree_names_every_resource_with_its_hooks_and_exports(local: Graph, capsys):
    assert main(["plan", "--stack", "local"]) == 0
    tree = capsys.readouterr().out

    for resource in local.resources:
        assert (resource.object_name or resource.name) in tree
    assert "Job gpt in training  (before create: gpt-previous-job-is-gone" in tree
    assert "training_job_name = gpt" in tree


def test_the_json_output_is_the_whole_graph(local: Graph):
    document = json.loads(render.as_json(local))

    assert [r["urn"] for r in document["resources"]] == [r.urn for r in local.resources]
    assert document["outputs"] == local.outputs


def test_the_picture_has_a_node_for_every_object_and_no_arrow_to_anything_else(local: Graph):
    lines = render.mermaid(local).splitlines()

    nodes = {line.split("[")[0].replace("subgraph", "").strip() for line in lines if "[" in line}
    ends = {end.strip() for line in lines if "-->" in line for end in line.split("-->")}
    assert len(nodes) == len(local.resources)
    assert ends <= nodes

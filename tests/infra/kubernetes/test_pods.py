"""What every pod of the stack must be like, wherever it is declared."""

import json
import re

import pytest

from infra.names import SYSTEM_NAMESPACE
from infra.plan.graph import Graph
from infra.settings import PROJECT_DIRECTORY, HostPathVolume, load
from testkit import schemas
from testkit.factories import (
    BUCKET,
    HOST_PATH,
    WITH_STORE,
    containers,
    environment,
    graph,
    pod_specs,
    tasks,
)
from training.config import Config

PATH = re.compile(r"(^|[^\w.$@-])/\w")


def restricted_violations(pod: dict) -> list[str]:
    """Where a pod breaks the Pod Security Standard `restricted` of Kubernetes 1.35."""
    security = pod.get("securityContext", {})
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
               "persistentVolumeClaim", "projected", "secret"}  # fmt: skip
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not v.keys() & allowed]
    for container in containers(pod):
        name, own = container["name"], container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "drop ALL": capabilities.get("drop") == ["ALL"],
            "add": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": own.get("runAsNonRoot", security.get("runAsNonRoot")) is True,
            "runAsUser": own.get("runAsUser", security.get("runAsUser")) != 0,
            "seccomp": own.get("seccompProfile", security.get("seccompProfile", {})).get("type")
            in ("RuntimeDefault", "Localhost"),
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        }
        found += [f"{name}: {rule}" for rule, kept in rules.items() if not kept]
    return found


def pods_of_workloads(graph: Graph):
    return [(name, pod) for name, pod in pod_specs(graph) if not name.startswith("Job prepare-")]


def test_every_pod_but_the_ones_that_prepare_directories_complies_with_restricted(local: Graph):
    pods = pods_of_workloads(local)

    assert len(pods) >= 7
    assert {name: restricted_violations(pod) for name, pod in pods} == {n: [] for n, _ in pods}


def test_the_restricted_check_finds_a_violation(local: Graph):
    prepare = [pod for name, pod in pod_specs(local) if name.startswith("Job prepare-")]

    assert len(prepare) == 2
    for pod in prepare:
        assert set(restricted_violations(pod)) == {
            "volume volume", "prepare: add", "prepare: runAsNonRoot", "prepare: runAsUser",
        }  # fmt: skip


def test_a_pod_that_prepares_a_directory_sees_that_directory_only(local: Graph):
    for volume in ("checkpoints", "holdfast-store"):
        (job,) = local.find("Job", f"prepare-{volume}")
        pod = job.inputs["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        settings = {v.name: v for _, _, v in load("local").volumes()}[volume]
        assert isinstance(settings, HostPathVolume)

        assert job.inputs["metadata"]["namespace"] == SYSTEM_NAMESPACE
        assert pod["volumes"] == [
            {"name": "volume", "hostPath": {"path": settings.path, "type": "DirectoryOrCreate"}}
        ]
        assert pod["nodeSelector"] == {"kubernetes.io/hostname": settings.node}
        assert container["securityContext"]["capabilities"] == {
            "drop": ["ALL"],
            "add": ["CHOWN", "FOWNER"],
        }
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["automountServiceAccountToken"] is False


def test_every_container_says_what_it_needs_and_may_use_at_most(local: Graph):
    for name, pod in pod_specs(local):
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), name
            assert {"cpu", "memory"} <= resources["limits"].keys(), name


def test_every_containers_root_is_read_only_and_its_scratch_space_writable(local: Graph):
    for name, pod in pods_of_workloads(local):
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "/tmp" in [m["mountPath"] for m in container["volumeMounts"]], name


def test_only_the_pod_that_creates_actionsets_gets_a_token(local: Graph):
    with_token = [
        name
        for name, pod in pods_of_workloads(local)
        if pod.get("automountServiceAccountToken") is not False
    ]

    assert with_token == ["CronJob gpt-backup"]


def test_no_command_or_argument_holds_a_path(local: Graph):
    """Paths come by environment, so that the same commands run on any machine."""
    for name, pod in pod_specs(local):
        for container in containers(pod):
            words = [*container.get("command", []), *container.get("args", [])]
            assert not [word for word in words if PATH.search(word)], name
    for manifest in local.kubernetes():
        if manifest["kind"] == "Blueprint":
            for phase in tasks(manifest):
                assert not [word for word in phase["args"]["command"] if PATH.search(word)]


def test_every_path_in_the_environment_is_below_a_mount_of_its_container(local: Graph):
    maps = {r.inputs["metadata"]["name"]: r.inputs["data"] for r in local.find("ConfigMap")}
    (shared,) = [data for name, data in maps.items() if name == "holdfast-checkpoints-pvc"]
    for name, pod in pods_of_workloads(local):
        for container in containers(pod):
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            for variable, value in environment(container).items():
                if value.startswith("/"):
                    assert any(f"{value}/".startswith(f"{m}/") for m in mounts), (name, variable)
            if any(mount["name"] == "store" for mount in container["volumeMounts"]):
                store = shared["HOLDFAST_STORE"].removeprefix("file://")
                assert any(store.startswith(f"{mount}/") for mount in mounts), name


def _variables_that_the_commands_read() -> set[str]:
    sources = [*(PROJECT_DIRECTORY / "holdfast").rglob("*.py"),
               *(PROJECT_DIRECTORY / "training").rglob("*.py")]  # fmt: skip
    names = {n for path in sources for n in re.findall(r"HOLDFAST_[A-Z_]*[A-Z]", path.read_text())}
    return names | {f"HOLDFAST_TRAINING_{name.upper()}" for name in Config.model_fields}


@pytest.mark.parametrize("store", [BUCKET, None], ids=["bucket", "volume"])
def test_every_variable_that_is_set_is_one_that_the_commands_read(store):
    declared = graph(**({"backup_store": store} if store else {}), workloads__gpt__interval=5)
    known = _variables_that_the_commands_read()
    (shared,) = [
        r.inputs["data"] for r in declared.find("ConfigMap") if "HOLDFAST_RUN" in r.inputs["data"]
    ]
    given = set(shared)
    for _, pod in pods_of_workloads(declared):
        given |= {v for c in containers(pod) for v in environment(c)}

    assert {name for name in given if name.startswith("HOLDFAST_")} <= known


def test_no_config_map_or_environment_holds_a_credential():
    declared = graph(backup_store={"existing": {**BUCKET["existing"], "credentials_secret": "s3"}})
    text = json.dumps([r.inputs for r in declared.resources])

    assert not re.search(r"SECRET_ACCESS_KEY|ACCESS_KEY_ID|password|BEGIN [A-Z ]*PRIVATE", text)
    assert not [r for r in declared.resources if r.type.endswith(":Secret")]


def test_credentials_of_a_bucket_reach_only_containers_without_user_code():
    declared = graph(backup_store={"existing": {**BUCKET["existing"], "credentials_secret": "s3"}})
    secret = {"secretRef": {"name": "s3"}}
    holders = {
        (name, container["name"])
        for name, pod in pod_specs(declared)
        for container in containers(pod)
        if secret in container.get("envFrom", [])
    }

    assert holders == WITH_STORE


def test_a_stores_volume_is_writable_only_where_the_store_is_written(local: Graph):
    mounts = {
        (name, container["name"]): mount.get("readOnly", False)
        for name, pod in pod_specs(local)
        for container in containers(pod)
        for mount in container["volumeMounts"]
        if mount["name"] == "store"
    }

    assert mounts == {
        ("Job gpt", "recover"): True,
        ("CronJob gpt-backup", "prune"): False,
        ("CronJob holdfast-prune", "datasets"): False,
        ("CronJob holdfast-prune", "models"): False,
        ("Blueprint checkpoints push", "container"): False,
        ("Blueprint checkpoints stage", "container"): True,
        ("Blueprint checkpoints read", "container"): False,
        ("Blueprint checkpoints remove", "container"): False,
    }


def test_every_volume_that_is_mounted_is_declared_and_used(local: Graph):
    for name, pod in pod_specs(local):
        mounted = {m["name"] for c in containers(pod) for m in c["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name


def test_images_and_user_are_the_stacks_everywhere():
    declared = graph(
        images={"tools": "r.example/tools:1", "training": "r.example/train:2"}, run_as=2000
    )
    for name, pod in pods_of_workloads(declared):
        context = pod["securityContext"]
        assert {context[f] for f in ("runAsUser", "runAsGroup", "fsGroup")} == {2000}, name
    images = {
        container["image"]
        for _, pod in pod_specs(declared)
        for container in containers(pod)
        if "image" in container
    }
    (blueprint,) = declared.find("Blueprint")
    assert images == {"r.example/tools:1", "r.example/train:2"}
    assert {p["args"]["image"] for p in tasks(blueprint.inputs)} == {"r.example/tools:1"}
    (prepare,) = declared.find("Job", "prepare-checkpoints")
    (container,) = prepare.inputs["spec"]["template"]["spec"]["containers"]
    assert environment(container)["OWNER"] == "2000"


SHAPES = {
    "local": {},
    "bucket": {"backup_store": {"existing": {**BUCKET["existing"], "credentials_secret": "s3"}}},
    "gpus": {"workloads__gpt__gpus_per_node": 2, "workloads__gpt__ranks": 2},
    "own trainer": {
        "workloads__gpt__image": "tensorflow:2.20",
        "workloads__gpt__command": ["python", "train.py"],
        "workloads__gpt__env": {"DEBUG": "1"},
    },
    "two": {
        "workloads": {
            "a": {"run": "x", "volume": HOST_PATH},
            "b": {"run": "y", "namespace": "other", "volume": {"kind": "existing-claim",
                  "name": "shared", "size": "1Ti", "access_modes": ["ReadWriteMany"]}},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_every_object_is_strictly_valid_for_kubernetes_1_35(changes):
    objects = [o for o in graph(**changes).kubernetes() if o["kind"] != "Blueprint"]

    assert len(objects) >= 15
    for manifest in objects:
        schemas.check(manifest)


def test_what_a_task_overrides_is_a_valid_part_of_a_pod(local: Graph):
    (blueprint,) = local.find("Blueprint")
    for phase in tasks(blueprint.inputs):
        pod = phase["args"]["podOverride"]
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "task"}, "spec": pod}
        schemas.check(manifest)


def test_the_schema_check_finds_a_violation(local: Graph):
    (job,) = local.find("Job", "gpt")
    wrong = json.loads(json.dumps(job.inputs))
    wrong["spec"]["template"]["spec"]["containers"][0]["restartPolicyRule"] = []

    with pytest.raises(schemas.Invalid):
        schemas.check(wrong)

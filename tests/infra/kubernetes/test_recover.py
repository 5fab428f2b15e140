"""The container that refills a volume is the same one in the stack's own pods, in what a stack says
of the pods of others, and in what `holdfast init-container` prints."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from holdfast.cli import app
from infra.plan.graph import Graph
from testkit import schemas
from testkit.actionset_api import ActionSetApi, serve
from testkit.command_line import all_verbs
from testkit.factories import APPLICATION, BUCKET, FOREIGN, graph
from tests.infra.kubernetes.test_pods import restricted_violations

L = "workloads__llama"
CONFIG_MAP = "/api/v1/namespaces/training/configmaps/holdfast-llama-checkpoints"
WORDS = ["--namespace", "training", "--claim", "llama-checkpoints"]
KEYS = {"existing": {**BUCKET["existing"], "credentials_secret": "keys"}}
#: The same workload, as the stack's own training and as someone else's.
OWN = {"run": "llama-7b", "volume": FOREIGN["volume"], "namespace": "team-a"}
OPTIONS = [
    "--claim", "llama-checkpoints", "--image", "holdfast-tools:dev", "--run", "llama-7b",
    "--store", "s3://backups/holdfast/test", "--owner", "holdfast/test", "--workload", "llama",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def api() -> Iterator[ActionSetApi]:
    with serve() as double:
        yield double


def foreign(kind: str = "job", store: dict[str, Any] | None = None) -> Graph:
    return graph(**{L: {**FOREIGN, "owner": {"kind": kind}}, **of(store)})


def of(store: dict[str, Any] | None) -> dict[str, Any]:
    return {} if store is None else {"backup_store": store}


def config_map(graph: Graph) -> dict[str, Any]:
    (found,) = graph.find("ConfigMap", "holdfast-llama-checkpoints")
    return found.inputs


def said(graph: Graph) -> dict[str, Any]:
    """What the stack says that the pod template gets."""
    return json.loads(config_map(graph)["metadata"]["annotations"]["holdfast.dev/pod"])


def first(spec: dict[str, Any]) -> dict[str, Any]:
    (container,) = [each for each in spec["initContainers"] if each["name"] == "recover"]
    return container


def printed(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["init-container", *words])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("store", [None, BUCKET, KEYS], ids=["volume", "bucket", "secret"])
def test_pods_of_others_get_the_container_of_our_own_job(store: dict[str, Any] | None):
    (job,) = graph(**{L: OWN, **of(store)}).find("kubernetes:batch/v1:Job", "llama-job")
    ours = job.inputs["spec"]["template"]["spec"]
    theirs = said(foreign(store=store))

    assert first(theirs["spec"]) == first(ours)
    mounted = {mount["name"] for mount in first(ours)["volumeMounts"]}
    assert theirs["spec"]["volumes"] == [v for v in ours["volumes"] if v["name"] in mounted]
    user = theirs["spec"]["securityContext"]
    assert {key: ours["securityContext"][key] for key in user} == user
    assert theirs["metadata"]["labels"].items() <= job.inputs["metadata"]["labels"].items()


def test_pods_that_start_again_anyway_get_that_of_our_own_application():
    application = {**APPLICATION, "volume": FOREIGN["volume"], "run": "llama-7b"}
    (server,) = graph(**{L: {**application, "namespace": "team-a"}}).find("Deployment", "llama")

    assert first(said(foreign("deployment"))["spec"]) == first(
        server.inputs["spec"]["template"]["spec"]
    )


def test_pods_of_the_account_that_reads_the_backups_are_told_its_name():
    spec = said(graph(**{L: {**FOREIGN, "service_account": "trainer"}}))["spec"]

    assert spec["serviceAccountName"] == "trainer"
    assert "serviceAccountName" not in said(foreign())["spec"]


@pytest.mark.parametrize("kind", ["job", "statefulset"])
def test_the_command_prints_what_the_stack_says(api: ActionSetApi, kind: str):
    declared = foreign(kind)
    api.others[CONFIG_MAP] = config_map(declared)
    words = ["--api", api.url, *WORDS]

    assert yaml.safe_load(printed(*words).stdout) == said(declared)
    assert json.loads(printed(*words, "--output", "json").stdout) == said(declared)


def test_from_options_it_is_the_same_container_with_the_environment_in_it():
    declared = foreign(store=KEYS)
    ours = first(said(declared)["spec"])
    theirs = first(yaml.safe_load(printed(*OPTIONS, "--secret", "keys").stdout)["spec"])
    in_it = ("env", "envFrom")

    assert {k: v for k, v in theirs.items() if k not in in_it} == {
        k: v for k, v in ours.items() if k not in in_it
    }
    assert {"secretRef": {"name": "keys"}} in ours["envFrom"]
    assert theirs["envFrom"] == [{"secretRef": {"name": "keys"}}]
    values = {each["name"]: each["value"] for each in theirs["env"]}
    from_map = config_map(declared)["data"]
    of_ours = {**from_map, **{each["name"]: each["value"] for each in ours["env"]}}
    assert values.items() <= of_ours.items()
    reads = {option.envvar for option in all_verbs()["pull"].params}
    assert reads & of_ours.keys() - values.keys() == {
        "HOLDFAST_START", "HOLDFAST_DEADLINE",
    }  # fmt: skip


def test_from_options_all_else_is_what_the_stack_says_too():
    theirs, ours = yaml.safe_load(printed(*OPTIONS).stdout), said(foreign(store=BUCKET))

    del theirs["spec"]["initContainers"], ours["spec"]["initContainers"]
    assert theirs == ours


@pytest.mark.parametrize(("kind", "ends"), [("JobSet/a", True), ("statefulset/a", False)])
def test_where_pods_start_again_anyway_the_container_has_no_rule_of_its_own(kind: str, ends: bool):
    container = first(json.loads(printed(*OPTIONS, "--pause", kind, "-o", "json").stdout)["spec"])

    assert ("restartPolicyRules" in container) is ("restartPolicy" in container) is ends


def test_a_job_with_it_is_one_that_kubernetes_takes():
    part = yaml.safe_load(printed(*OPTIONS).stdout)
    spec = {**part["spec"], "restartPolicy": "Never", "containers": [{"name": "a", "image": "b:1"}]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mine"},
           "spec": {"template": {**part, "spec": spec}}}  # fmt: skip

    schemas.check(job)
    assert restricted_violations({**part["spec"], "containers": []}) == []


def test_what_is_missing_is_said(api: ActionSetApi):
    words = ["--api", api.url, *WORDS]
    assert (
        "there is no ConfigMap training/holdfast-llama-checkpoints"
        in printed(*words, code=1).stderr
    )
    api.others[CONFIG_MAP] = {"metadata": {"annotations": {}}}
    assert "makes the pods of this workload itself" in printed(*words, code=1).stderr
    for wrong, line in {
        ("--claim", "c"): "no namespace is named",
        ("--claim", "c", "--store", "s3://b"): "--store does nothing without --image",
        (*OPTIONS, "--api", api.url): "--api does nothing with --image",
        (*OPTIONS, "--store", "file:///mnt/store/a/b"): "is a directory, which other pods",
        (*OPTIONS, "--pause", "pod/a"): "invalid owner 'pod/a'",
        ("--claim", "c", "--image", "i:1"): "no store is named",
    }.items():
        assert line in printed(*wrong, code=2).stderr

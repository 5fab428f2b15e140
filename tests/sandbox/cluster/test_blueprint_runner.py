import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from holdfast.control.job import Jobs, recreate_if_finished
from holdfast.control.kanister_error import readable
from holdfast.control.kubernetes import KubernetesAPI
from holdfast.control.run_action import Timeouts
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.kanister import merge, seconds
from sandbox.errors import SandboxError, Unsupported
from tests.sandbox.tiny import Factory, claim, container, job, python, shell, until

GONE = (
    '{{ if exists . "status" "active" }}false{{ else if exists . "status" "terminating" }}'
    "{{ eq .status.terminating 0 }}{{ else }}true{{ end }}"
)
JOB = {"apiVersion": "v1", "group": "batch", "resource": "jobs",
       "name": "{{ .Options.job }}", "namespace": "{{ .PVC.Namespace }}"}  # fmt: skip
SLEEPING = container(shell("trap 'exit 75' TERM; sleep 600 & wait"))


def task(name: str, script: str, **override: Any) -> dict[str, Any]:
    return {
        "func": "KubeTask",
        "name": name,
        "args": {"namespace": "{{ .PVC.Namespace }}", "image": "tools", "command": shell(script),
                 "podOverride": override},
    }  # fmt: skip


def patch(name: str, suspend: bool) -> dict[str, Any]:
    spec = json.dumps({"spec": {"suspend": suspend}})
    arguments = {"operation": "patch", "objectReference": JOB, "spec": spec}
    return {"func": "KubeOps", "name": name, "args": arguments}


def wait(name: str, timeout: str = "10s") -> dict[str, Any]:
    conditions = {"allOf": [{"condition": GONE, "objectReference": JOB}]}
    return {"func": "WaitV2", "name": name, "args": {"timeout": timeout, "conditions": conditions}}


def blueprint(*phases: dict[str, Any], **action: Any) -> dict[str, Any]:
    return {
        "kind": "Blueprint",
        "metadata": {"name": "checkpoints", "namespace": "kanister"},
        "actions": {"act": {"phases": list(phases), **action}},
    }


def ask(cluster: Cluster, **action: Any) -> dict[str, Any]:
    subject = {"kind": "pvc", "name": "data", "namespace": "training"}
    asked = {"name": "act", "blueprint": "checkpoints", "object": subject, **action}
    return cluster.create_actionset({"metadata": {"name": "a"}, "spec": {"actions": [asked]}})


def result(cluster: Cluster, **action: Any) -> dict[str, Any]:
    ask(cluster, **action)
    assert cluster.actionsets["a"].join(15)
    return cluster.actionsets["a"].status


def test_a_task_gets_its_override_and_its_output_becomes_the_artifact(
    make_cluster: Factory,
) -> None:
    """Env from a ConfigMap, a templated env, a volume: all by podOverride, as our Blueprints."""
    line = '{"key":"snapshot","value":"\'$RUN-$CLAIM-$(cat $WHERE/in)\'"}'
    override = {
        "containers": [
            {
                "name": "container",
                "envFrom": [{"configMapRef": {"name": "settings"}}],
                "env": [
                    {"name": "CLAIM", "value": "{{ .PVC.Name }}"},
                    {"name": "WHERE", "value": "/volume"},
                ],
                "volumeMounts": [{"name": "v", "mountPath": "/volume"}],
            }
        ],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "{{ .PVC.Name }}"}}],
    }
    configmap = {
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "training"},
        "data": {"RUN": "run-1"},
    }
    artifacts = {"copy": {"keyValue": {"snapshot": "{{ .Phases.upload.Output.snapshot }}"}}}
    cluster = make_cluster(
        blueprint(
            task("upload", f"echo '###Phase-output###: {line}'", **override),
            outputArtifacts=artifacts,
        ),
        configmap,
        claim(),
    )
    volume = cluster.volume("training", "data")
    volume.mkdir(parents=True)
    (volume / "in").write_text("7")
    status = result(cluster)
    assert status["state"] == "complete"
    assert status["actions"][0]["artifacts"]["copy"]["keyValue"] == {"snapshot": "run-1-data-7"}


def test_a_failed_phase_fails_the_action_first_and_then_the_defer_phase_resumes_the_job(
    make_cluster: Factory,
) -> None:
    cluster = make_cluster(
        job(SLEEPING),
        claim(),
        blueprint(
            patch("suspend", True),
            wait("wait"),
            task("switch", "echo no space; sleep 0.3; exit 1"),
            deferPhase=patch("resume", False),
            outputArtifacts={"x": {"keyValue": {"g": "{{ .Phases.switch.Output.g }}"}}},
        ),
    )
    cluster.start()
    work = cluster.jobs["training", "work"]
    until(lambda: work.status().get("active"))
    status = result(cluster, options={"job": "work"})
    assert status["state"] == "failed"
    assert readable(status["error"]["message"]).endswith("no space: Pod failed: exit code 1, Error")
    action = status["actions"][0]
    assert [phase["state"] for phase in action["phases"]] == ["complete", "complete", "failed"]
    assert action["deferPhase"]["state"] == "complete"
    assert action["artifacts"]["x"]["keyValue"]["g"] == "{{ .Phases.switch.Output.g }}"
    until(lambda: work.status().get("active"))
    assert len(work.pods) == 2
    assert work.failures == 0


def test_the_state_is_failed_while_the_defer_phase_still_runs(make_cluster: Factory) -> None:
    cluster = make_cluster(
        claim(), blueprint(task("up", "exit 1"), deferPhase=task("clean", "sleep 600"))
    )
    ask(cluster)
    status = cluster.actionsets["a"].status
    until(lambda: status["state"] == "failed" and status["progress"]["runningPhase"] == "clean")
    assert status["actions"][0]["deferPhase"]["state"] == "pending"


def test_an_error_of_the_defer_phase_overwrites_the_message(make_cluster: Factory) -> None:
    cluster = make_cluster(
        claim(),
        blueprint(task("up", "echo first; exit 1"), deferPhase=task("end", "echo second; exit 1")),
    )
    message = result(cluster)["error"]["message"]
    assert "second" in message
    assert "first" not in message


def test_a_patch_adds_an_annotation_to_the_job_and_null_takes_it_away(
    make_cluster: Factory,
) -> None:
    def noted(value: str | None) -> dict[str, Any]:
        phase = patch("mark" if value else "unmark", bool(value))
        change = {"metadata": {"annotations": {"why": value}}, "spec": {"suspend": bool(value)}}
        phase["args"]["spec"] = json.dumps(change)
        return phase

    cluster = make_cluster(job(SLEEPING), claim(), blueprint(noted("restore"), wait("wait")))
    result(cluster, options={"job": "work"})
    work = cluster.jobs["training", "work"]
    assert work.manifest["metadata"]["annotations"] == {"why": "restore"}
    work.patch(json.loads(noted(None)["args"]["spec"]))
    assert work.manifest["metadata"]["annotations"] == {}
    assert not work.suspended


def test_a_missing_output_fails_a_finished_action(make_cluster: Factory) -> None:
    artifacts = {"copy": {"keyValue": {"snapshot": "{{ .Phases.up.Output.snapshot }}"}}}
    cluster = make_cluster(claim(), blueprint(task("up", "true"), outputArtifacts=artifacts))
    assert "'snapshot'" in result(cluster)["error"]["message"]


@pytest.mark.parametrize("line", ['{"key":"n","value":1}', '{"key":"n"}', "n=1"])
def test_an_output_that_is_not_two_strings_fails_the_phase(
    make_cluster: Factory, line: str
) -> None:
    cluster = make_cluster(
        claim(), blueprint(task("up", f"echo '###Phase-output###: {line}'"))
    )  # fmt: skip
    assert "phase output" in result(cluster)["error"]["message"]


def test_waiting_for_a_job_that_does_not_exist_lasts_until_the_time_out(
    make_cluster: Factory,
) -> None:
    cluster = make_cluster(claim(), blueprint(wait("gone", "300ms")))
    assert "timed out after 0.3 s" in result(cluster, options={"job": "no"})["error"]["message"]


def test_patching_a_job_that_does_not_exist_fails(make_cluster: Factory) -> None:
    cluster = make_cluster(claim(), blueprint(patch("suspend", True)))
    assert "'no' not found" in result(cluster, options={"job": "no"})["error"]["message"]


@pytest.mark.parametrize(
    ("action", "named"),
    [
        ({"name": "other"}, "Action other not found"),
        ({"blueprint": "none"}, "'none' not found"),
        ({"object": {"kind": "deployment", "name": "x"}}, "'deployment'"),
        ({"object": {"kind": "pvc", "name": "x", "namespace": "training"}}, "training/x"),
        ({"podOverride": {}}, "podOverride"),
    ],
)
def test_a_request_that_cannot_be_launched_fails_with_its_reason(
    make_cluster: Factory, action: dict[str, Any], named: str
) -> None:
    cluster = make_cluster(claim(), blueprint(task("up", "true")))
    status = result(cluster, **action)
    assert status["state"] == "failed"
    assert named in status["error"]["message"]


@pytest.mark.parametrize(
    ("phase", "named"),
    [
        ({"func": "KubeExec", "name": "s", "args": {}}, "function KubeExec"),
        ({**task("up", "true"), "objects": {}}, "objects"),
        (task("up", "true", hostPID=True), "hostPID"),
        (task("{{ .x }}", "echo {{ .Time | date }}"), r"'\|'"),
    ],
)
def test_a_blueprint_that_needs_what_the_sandbox_lacks_is_refused_by_name(
    make_cluster: Factory, phase: dict[str, Any], named: str
) -> None:
    with pytest.raises(Unsupported, match=named):
        make_cluster(claim(), blueprint(phase))


def test_deleting_an_actionset_kills_its_pod_and_skips_the_defer_phase(
    make_cluster: Factory,
) -> None:
    cluster = make_cluster(
        claim(), blueprint(task("up", "sleep 600"), deferPhase=task("clean", "true"))
    )
    ask(cluster)
    actionset = cluster.actionsets["a"]
    until(lambda: (cluster.state / "pods/a-up/container.log").exists())
    cluster.delete_actionset("a")
    assert actionset.join(5)
    assert not (cluster.state / "pods/a-clean").exists()


def test_lists_merge_by_name_or_mount_path_and_others_are_replaced() -> None:
    base = {"containers": [{"name": "c", "command": ["a"], "env": [{"name": "X", "value": "1"}]}]}
    over = {"containers": [{"name": "c", "env": [{"name": "Y", "value": "2"}], "args": ["b"]}],
            "volumes": [{"name": "v"}]}  # fmt: skip
    assert merge(base, over) == {
        "containers": [
            {
                "name": "c",
                "command": ["a"],
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
                "args": ["b"],
            }
        ],
        "volumes": [{"name": "v"}],
    }
    assert merge({"command": ["a", "b"]}, {"command": ["c"]}) == {"command": ["c"]}


def test_durations_are_read_as_go_reads_them() -> None:
    assert seconds("1h30m") == 5400
    with pytest.raises(SandboxError, match="'10'"):
        seconds("10")


# The HTTP API


def call(cluster: Cluster, method: str, path: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(cluster.url + path, data=data, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


ACTIONSETS = "/apis/cr.kanister.io/v1alpha1/namespaces/kanister/actionsets"


def test_actionsets_are_created_listed_by_label_and_deleted_over_http(
    make_cluster: Factory,
) -> None:
    cluster = make_cluster(claim(), blueprint(task("up", "true")))
    subject = {"kind": "pvc", "name": "data", "namespace": "training"}
    spec = {"actions": [{"name": "act", "blueprint": "checkpoints", "object": subject}]}
    for name in ("one", "two"):
        body = {"metadata": {"name": name, "labels": {"w": name}}, "spec": spec}
        assert call(cluster, "POST", ACTIONSETS, body)[0] == 201
    assert call(cluster, "POST", ACTIONSETS, {"metadata": {"name": "one"}, "spec": spec})[0] == 409
    until(lambda: call(cluster, "GET", f"{ACTIONSETS}/one")[1]["status"]["state"] == "complete")
    listed = call(cluster, "GET", f"{ACTIONSETS}?labelSelector=w%3Dtwo")[1]["items"]
    assert [item["metadata"]["name"] for item in listed] == ["two"]
    assert call(cluster, "DELETE", f"{ACTIONSETS}/one")[0] == 200
    code, status = call(cluster, "GET", f"{ACTIONSETS}/one")
    assert (code, status["reason"]) == (404, "NotFound")


def test_a_label_selector_that_is_not_understood_is_refused_and_not_ignored(
    make_cluster: Factory,
) -> None:
    cluster = make_cluster(claim(), blueprint(task("up", "true")))
    assert call(cluster, "GET", f"{ACTIONSETS}?labelSelector=w+in+(a,b)")[0] == 400


def test_kanister_watches_its_own_namespace_only(make_cluster: Factory) -> None:
    cluster = make_cluster(claim(), blueprint(task("up", "true")))
    elsewhere = ACTIONSETS.replace("/kanister/", "/training/")
    body = {"metadata": {"name": "x"}, "spec": {"actions": []}}
    assert call(cluster, "POST", elsewhere, body)[0] == 404


def test_a_finished_job_can_be_created_again_from_its_own_spec_over_http(
    make_cluster: Factory,
) -> None:
    cluster = make_cluster(job(container(python("pass"))), blueprint(task("up", "true")), claim())
    cluster.start()
    path = "/apis/batch/v1/namespaces/training/jobs"
    until(lambda: call(cluster, "GET", f"{path}/work")[1]["status"].get("succeeded"))
    manifest = call(cluster, "GET", f"{path}/work")[1]
    assert call(cluster, "DELETE", f"{path}/work")[0] == 200
    assert call(cluster, "POST", path, manifest)[0] == 201
    until(lambda: call(cluster, "GET", f"{path}/work")[1]["status"].get("succeeded"))
    assert [pod.name for pod in cluster.jobs["training", "work"].pods] == ["work-2"]


def test_a_job_is_created_by_apply_and_what_it_was_is_kept_in_a_config_map(
    make_cluster: Factory,
) -> None:
    """What `holdfast restore` does with a Job that is finished."""
    cluster = make_cluster(job(container(python("pass"))), blueprint(task("up", "true")), claim())
    cluster.start()
    jobs = Jobs(KubernetesAPI(cluster.url), "training")
    until(lambda: (found := jobs.get("work")) and found.finished)
    assert recreate_if_finished(jobs, "work", Timeouts(timeout=10), lambda line: None)
    until(lambda: (found := jobs.get("work")) and found.finished)
    assert [pod.name for pod in cluster.jobs["training", "work"].pods] == ["work-2"]
    assert jobs.saved("work") is None


def test_anything_else_is_an_unknown_path(make_cluster: Factory) -> None:
    cluster = make_cluster(blueprint(task("up", "true")))
    code, status = call(cluster, "GET", "/api/v1/namespaces/training/secrets")
    assert code == 404
    assert "actionsets and deployments and jobs and configmaps" in status["message"]

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox.cluster.pods import restarted
from tests.sandbox.tiny import (
    Factory,
    claim,
    container,
    happened,
    job,
    python,
    shell,
    until,
)

#: Counts its own starts in a file on the volume, then ends with the code for that start.
COUNT = "echo x >> $DATA/starts; set -- {codes}; n=$(wc -l < $DATA/starts); eval exit \\${{$n}}"
MOUNT = {
    "env": [{"name": "DATA", "value": "/data"}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}
VOLUMES = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}


def counting(codes: str, **fields: Any) -> dict[str, object]:
    return container(shell(COUNT.format(codes=codes)), **MOUNT, **fields)


def starts(folder: Path) -> int:
    return len((folder / "volumes/data-vol/starts").read_text().split())


def test_a_pod_runs_its_init_containers_first_and_shares_its_volumes(make_cluster: Factory) -> None:
    first = container(shell('echo "state" > $DATA/recovered'), "recover", **MOUNT)
    second = container(shell("cat $DATA/recovered; test -n $TMPDIR"), **MOUNT)
    cluster = make_cluster(job(second, pod={**VOLUMES, "initContainers": [first]}), claim())
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert work.finished == "Complete"
    assert work.pods[0].log("main").read_text() == "state\n"
    assert work.status() == {
        "terminating": 0, "succeeded": 1,
        "conditions": [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}],
    }  # fmt: skip


def test_a_failing_init_container_keeps_the_containers_from_starting(make_cluster: Factory) -> None:
    bad = container(shell("exit 3"), "recover")
    cluster = make_cluster(
        job(container(shell("true")), pod={"initContainers": [bad]}, backoffLimit=0)
    )
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert work.finished == "Failed"
    assert work.pods[0].exit_codes == {"recover": 3}


def test_the_job_makes_new_pods_until_one_succeeds(make_cluster: Factory) -> None:
    cluster = make_cluster(job(counting("1 1 0"), pod=VOLUMES, backoffLimit=2), claim())
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert (work.finished, work.failures) == ("Complete", 2)
    assert [pod.name for pod in work.pods] == ["work-1", "work-2", "work-3"]


def test_the_job_fails_at_its_backoff_limit(make_cluster: Factory) -> None:
    cluster = make_cluster(job(counting("1 1 0"), pod=VOLUMES, backoffLimit=1), claim())
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert work.finished == "Failed"
    assert work.reason.startswith("BackoffLimitExceeded")


def test_an_exit_code_that_the_policy_knows_fails_the_job_at_once(make_cluster: Factory) -> None:
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [76]}}]}
    cluster = make_cluster(
        job(counting("76 0"), pod=VOLUMES, backoffLimit=6, podFailurePolicy=policy), claim()
    )
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert (work.finished, starts(cluster.state)) == ("Failed", 1)


def test_a_disruption_does_not_count_against_the_limit(make_cluster: Factory) -> None:
    policy = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
    script = "echo x >> $DATA/starts; test $(wc -l < $DATA/starts) -gt 1 || sleep 600"
    cluster = make_cluster(
        job(container(shell(script), **MOUNT), pod=VOLUMES, backoffLimit=0,
            podFailurePolicy=policy),
        claim(),
    )  # fmt: skip
    cluster.start()
    work = cluster.jobs["training", "work"]
    until(lambda: (cluster.state / "volumes/data-vol/starts").exists())
    assert work.pods[0].kill("DisruptionTarget") >= 1
    assert work.join(10)
    assert (work.finished, work.failures) == ("Complete", 0)


def test_a_job_past_its_deadline_fails_and_its_pod_is_stopped(make_cluster: Factory) -> None:
    cluster = make_cluster(job(container(shell("exec sleep 600")), activeDeadlineSeconds=0.3))
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert (work.finished, work.reason) == ("Failed", "DeadlineExceeded")
    assert work.pods[0].exit_codes == {"main": 128 + signal.SIGTERM}


RULES = [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 76]}}]
ALL = [{**RULES[0], "action": "RestartAllContainers"}]


@pytest.mark.parametrize(
    ("fields", "policy", "code", "expected"),
    [
        ({}, "Never", 1, None),
        ({}, "OnFailure", 1, "Restart"),
        ({}, "OnFailure", 0, None),
        ({}, "Always", 0, "Restart"),
        ({"restartPolicy": "OnFailure"}, "Never", 1, "Restart"),
        ({"restartPolicy": "Never", "restartPolicyRules": RULES}, "Never", 1, "Restart"),
        ({"restartPolicy": "Never", "restartPolicyRules": RULES}, "Never", 76, None),
        ({"restartPolicy": "Never", "restartPolicyRules": RULES}, "Never", 0, None),
        ({"restartPolicy": "Never", "restartPolicyRules": ALL}, "Never", 1, "RestartAllContainers"),
        ({"restartPolicy": "Never", "restartPolicyRules": ALL}, "Never", 76, None),
    ],
)
def test_restart_rules_come_before_the_policies(
    fields: dict[str, object], policy: str, code: int, expected: str | None
) -> None:
    assert restarted({"name": "c", **fields}, policy, code) == expected


def test_all_containers_of_a_pod_restart_in_place_init_containers_first(
    make_cluster: Factory,
) -> None:
    first = container(shell("echo x >> $DATA/recovered"), "recover", **MOUNT)
    main = counting("1 1 76", restartPolicy="Never", restartPolicyRules=ALL)
    beside = container(shell("sleep 600"), "beside")
    pod = {**VOLUMES, "initContainers": [first]}
    document = job(main, pod=pod, backoffLimit=0)
    document["spec"]["template"]["spec"]["containers"].append(beside)
    cluster = make_cluster(document, claim())
    cluster.start()
    work = cluster.jobs["training", "work"]
    again = until(lambda: work.pods[0].exit_codes.get("main") == 76 and work.pods[0])
    again.kill()
    assert work.join(10)
    assert len(work.pods) == 1
    assert again.restarts == {"recover": 2, "main": 2, "beside": 2}
    assert (cluster.state / "volumes/data-vol/recovered").read_text() == "x\n" * 3


def test_a_container_restarts_in_place_without_a_new_pod(make_cluster: Factory) -> None:
    cluster = make_cluster(
        job(counting("1 1 76", restartPolicy="Never", restartPolicyRules=RULES),
            pod=VOLUMES, backoffLimit=0),
        claim(),
    )  # fmt: skip
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert len(work.pods) == 1
    assert work.pods[0].restarts == {"main": 2}
    assert work.pods[0].exit_codes == {"main": 76}


GENTLE = (
    "import os, pathlib, signal, sys\n"
    "data = pathlib.Path(os.environ['DATA'])\n"
    "signal.signal(signal.SIGTERM, lambda *_: (data / 'saved').write_text('x') and sys.exit(75))\n"
    "if (data / 'saved').exists(): sys.exit(0)\n"
    "(data / 'ready').write_text('x')\n"
    "while True: signal.pause()\n"
)


def test_suspend_lets_the_pod_save_and_resume_starts_the_next(make_cluster: Factory) -> None:
    cluster = make_cluster(
        job(container(python(GENTLE), **MOUNT), pod=VOLUMES, backoffLimit=0), claim()
    )
    cluster.start()
    work = cluster.jobs["training", "work"]
    until((cluster.state / "volumes/data-vol/ready").exists)
    assert work.status() == {"terminating": 0, "active": 1}
    work.patch({"spec": {"suspend": True}})
    until(lambda: work.pods[0].phase == "Failed")
    assert work.pods[0].exit_codes == {"main": 75}
    until(lambda: work.status()["terminating"] == 0)
    assert work.status()["conditions"][0]["type"] == "Suspended"
    work.patch({"spec": {"suspend": False}})
    assert work.join(10)
    assert (work.finished, work.failures, len(work.pods)) == ("Complete", 0, 2)


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(make_cluster: Factory) -> None:
    stubborn = (
        "import os, pathlib, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(os.environ['DATA'], 'ready').write_text(str(os.getpid()))\n"
        "while True: signal.pause()\n"
    )
    pod = {**VOLUMES, "terminationGracePeriodSeconds": 0.2}
    cluster = make_cluster(job(container(python(stubborn), **MOUNT), pod=pod), claim())
    cluster.start()
    ready = cluster.state / "volumes/data-vol/ready"
    until(lambda: ready.exists() and ready.read_text())
    work = cluster.jobs["training", "work"]
    work.delete()
    assert work.pods[0].exit_codes == {"main": 128 + signal.SIGKILL}
    assert not psutil.pid_exists(int(ready.read_text()))


def test_no_pod_starts_while_the_node_is_cordoned(make_cluster: Factory) -> None:
    cluster = make_cluster(job(container(shell("true"))))
    work = cluster.jobs["training", "work"]
    with cluster.cordoned():
        cluster.start()
        assert not work.join(0.3)
        assert not work.pods
    assert work.join(10)
    assert work.finished == "Complete"


def test_a_pod_gets_a_fault_only_under_its_own_name(make_cluster: Factory) -> None:
    cluster = make_cluster(job(container(shell("exit ${CODE:-0}")), backoffLimit=1))
    cluster.pod_environment["work-1"] = {"CODE": "9"}
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert [pod.exit_codes["main"] for pod in work.pods] == [9, 0]


def test_a_container_does_not_inherit_this_shells_variables(
    make_cluster: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_RUN", "not-the-graphs")
    script = shell('test -z "$HOLDFAST_RUN" && command -v python')
    cluster = make_cluster(job(container(script), backoffLimit=0))
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    assert work.finished == "Complete"
    found = work.pods[0].log("main").read_text().strip()
    assert os.path.dirname(found) == os.path.dirname(python("")[0])  # noqa: PTH120


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parallelism": 2}, "parallelism 2"),
        ({"completions": 2, "parallelism": 2}, "completionMode Indexed"),
        ({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}, "successPolicy"),
        ({"managedBy": "someone"}, "managedBy"),
    ],
)
def test_a_job_that_needs_what_the_sandbox_lacks_is_named_and_not_run(
    make_cluster: Factory, change: dict[str, Any], named: str
) -> None:
    cluster = make_cluster(job(container(shell("true")), **change))
    assert not cluster.jobs
    assert named in cluster.not_run()[0]


def test_a_pod_that_asks_for_what_a_process_cannot_have_is_named_and_not_run(
    make_cluster: Factory,
) -> None:
    pod = {"volumes": [{"name": "w", "hostPath": {"path": "/x"}}], "hostPID": True}
    cluster = make_cluster(job(container(shell("chown 1 /x"), lifecycle={"preStop": {}}), pod=pod))
    assert not cluster.jobs
    named = cluster.not_run()[0]
    assert all(word in named for word in ("hostPID", "lifecycle", "hostPath"))


def test_stop_leaves_no_process(make_cluster: Factory) -> None:
    cluster = make_cluster(job(container(shell("sleep 600 & echo $$; sleep 600"))))
    cluster.start()
    log = cluster.state / "pods/work-1/main.log"
    until(lambda: log.exists() and log.read_text())
    cluster.stop()
    assert not psutil.pid_exists(int(log.read_text()))
    assert happened(cluster, "pod-ended")


def test_a_job_in_a_queue_is_refused_and_does_not_wait_for_ever(make_cluster: Factory) -> None:
    queued = job(container(shell("true")), name="gpt")
    queued["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}

    (refused,) = make_cluster(queued).refused
    assert "Job gpt waits in queue 'gpus' of Kueue" in refused

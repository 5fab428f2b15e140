"""Jobs of several pods side by side, up to the stack's own training over two nodes."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.volume import Volume
from sandbox.cluster import processes
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.jobs import Job
from sandbox.cluster.pods import Pod
from testkit import factories
from tests.sandbox.tiny import Factory, claim, container, job, shell, until

MOUNT = {
    "env": [{"name": "DATA", "value": "/data"}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}
VOLUMES = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}


def indexed(script: str, **spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two pods at once, of which each knows its index, on one volume."""
    both = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    return job(container(shell(script), **MOUNT), pod=VOLUMES, **both, **spec), claim()


def finished(cluster: Cluster) -> Job:
    cluster.start()
    work = cluster.jobs["training", "work"]
    assert work.join(10)
    return work


def test_each_index_is_a_pod_and_all_run_at_once(make_cluster: Factory) -> None:
    # Each waits for the other's file: one after the other they would never end.
    script = (
        "i=$JOB_COMPLETION_INDEX; touch $DATA/$i; until test -e $DATA/$((1-i)); do sleep .01; done"
    )
    work = finished(make_cluster(*indexed(script)))

    assert (work.finished, work.reason) == ("Complete", "CompletionsReached")
    assert sorted(pod.name for pod in work.pods) == ["work-0-1", "work-1-1"]
    assert work.status()["succeeded"] == 2


def test_each_index_has_tries_of_its_own(make_cluster: Factory) -> None:
    script = (
        "echo x >> $DATA/$JOB_COMPLETION_INDEX; test $(wc -l < $DATA/$JOB_COMPLETION_INDEX) = 2"
    )
    work = finished(make_cluster(*indexed(script, backoffLimitPerIndex=1, maxFailedIndexes=0)))

    assert (work.finished, work.failures, len(work.pods)) == ("Complete", 2, 4)


@pytest.mark.parametrize(
    ("allowed", "policy", "reason"),
    [
        (0, {}, "MaxFailedIndexesExceeded"),
        (1, {}, "FailedIndexes"),
        (1, {"successPolicy": {"rules": [{"succeededCount": 1}]}}, "SuccessPolicy"),
    ],
)
def test_a_failed_index_fails_the_job_unless_the_others_suffice(
    make_cluster: Factory, allowed: int, policy: dict[str, Any], reason: str
) -> None:
    script = "test $JOB_COMPLETION_INDEX = 0 || exit 1; until test -e $DATA/go; do sleep .01; done"
    limits = {"backoffLimitPerIndex": 0, "maxFailedIndexes": allowed}
    cluster = make_cluster(*indexed(script, **limits, **policy))
    cluster.start()
    work = cluster.jobs["training", "work"]
    until(lambda: work.failures)
    (cluster.state / "volumes/data-vol/go").touch(exist_ok=True)

    assert work.join(10)
    assert work.reason.partition(":")[0] == reason
    assert work.finished == ("Complete" if reason == "SuccessPolicy" else "Failed")


def test_a_job_whose_success_needs_one_index_does_not_wait_for_a_pod_that_never_comes(
    make_cluster: Factory,
) -> None:
    script = (
        "touch $DATA/$JOB_COMPLETION_INDEX; test $JOB_COMPLETION_INDEX = 0 || sleep 600; "
        "until test -e $DATA/go; do sleep .01; done"
    )
    policy = {"rules": [{"succeededCount": 1}]}
    cluster = make_cluster(*indexed(script, backoffLimitPerIndex=9, successPolicy=policy))
    cluster.start()
    work, data = cluster.jobs["training", "work"], cluster.state / "volumes/data-vol"
    until(lambda: (data / "0").exists() and (data / "1").exists())
    with cluster.cordoned():
        next(pod for pod in work.pods if pod.index == 1).kill()
        (data / "go").touch()
        until(lambda: work.finished)

    assert work.join(10)
    assert (work.finished, work.reason, len(work.pods)) == ("Complete", "SuccessPolicy", 2)


@pytest.mark.torch
@pytest.mark.slow
def test_two_nodes_that_lose_the_first_one_end_bit_for_bit_like_two_ranks_that_nobody_disturbed(
    make_cluster: Factory, tmp_path: Path
) -> None:
    cluster = make_cluster(*two_nodes(), speed=20.0)

    training = damaged(cluster, tmp_path, lambda lost: lost.kill("DisruptionTarget"))

    assert sorted(pod.name for pod in training.pods) == ["gpt-0-1", "gpt-0-2", "gpt-1-1"]


@pytest.mark.torch
@pytest.mark.slow
def test_one_of_two_nodes_restarts_all_its_containers_and_the_other_waits_for_it(
    make_cluster: Factory, tmp_path: Path
) -> None:
    cluster = make_cluster(*two_nodes(restart="all-containers"), speed=20.0)

    def fail(first: Pod) -> None:
        del cluster.pod_environment[first.name]  # else its next life is held as well
        processes.kill_tree(f"{first.tag}trainer/")

    training = damaged(cluster, tmp_path, fail)

    restarts = {pod.name: pod.restarts for pod in training.pods}
    assert restarts == {"gpt-0-1": {"recover": 1, "trainer": 1}, "gpt-1-1": {}}


def damaged(cluster: Cluster, folder: Path, damage: Callable[[Pod], object]) -> Job:
    """A training of two nodes, the first of which is damaged in a save; it must end bit for bit
    like two ranks that nobody disturbed."""
    alone = folder / "alone"
    shared, flag = cluster.state / "volumes" / "shared-vol", folder / "in-the-middle-of-a-save"
    words = " ".join(random.Random(7).choices(["hold", "fast", "rope", "knot"], k=8000))
    for volume in (alone, shared):
        (volume / "corpus").mkdir(parents=True)
        (volume / "corpus" / "words.txt").write_text(words)
    failpoint = f"save.shard-written@2=hold:{flag}"
    cluster.pod_environment["gpt-0-1"] = {"HOLDFAST_FAILPOINT": failpoint}
    cluster.start(cronjobs=False)
    places = {"HOLDFAST_VOLUME": str(alone), "HOLDFAST_TRAINING_DATA": str(alone / "corpus")}
    undisturbed = subprocess.Popen(
        [sys.executable, "-m", "training", "--run=demo", "--ranks=2"],
        env={**os.environ, **TINY, **places},
    )

    until(flag.exists, 100)
    training = cluster.jobs["training", "gpt"]
    lost = training.active
    assert lost is not None
    assert lost.name == "gpt-0-1"
    damage(lost)

    assert training.join(100)
    logs = "".join(pod.log("trainer").read_text() for pod in training.pods)
    assert training.finished == "Complete", logs
    assert "resuming from step-00000004" in logs
    assert undisturbed.wait(100) == 0
    assert sorted(contents(shared)) == [f"step-{step:08d}" for step in (4, 8, 12)]
    assert contents(shared) == contents(alone)
    return training


TINY = {
    f"HOLDFAST_TRAINING_{name}": value
    for name, value in {
        "PRESET": "tiny", "DATA": "/var/ml_model/corpus", "STEPS": "12", "SAVE_EVERY": "4",
        "WHEN_BUSY": "wait", "WARMUP": "3", "LOADERS": "0", "HEARTBEAT": "1",
    }.items()
}  # fmt: skip


def two_nodes(**settings: Any) -> list[dict[str, Any]]:
    nfs = {"kind": "nfs", "size": "1Ti", "server": "nfs.example"}
    volume = {**nfs, "name": "shared", "path": "/a"}
    store = {"volume": {**nfs, "name": "store", "path": "/b"}}
    workload = {"run": "demo", "volume": volume, "nodes": 2, "env": TINY, **settings}
    return factories.graph(workloads={"gpt": workload}, backup_store=store).kubernetes()


def contents(root: Path) -> dict[str, str]:
    bundles = Volume(root, "demo").bundles()
    return {bundle.name: bundle.manifest.content for bundle in bundles}

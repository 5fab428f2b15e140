"""A spot node is taken back: two minutes pass from the notice to its end. A trainer that fails."""

import random
import shutil
import time

import pytest

from sandbox.cluster import processes
from sandbox.demo.observe import Training
from testkit import factories
from tests.sandbox.tiny import Factory, until

NOTICE = 120.0  # seconds between SIGTERM and the end, as AWS gives them
FOREVER = "100000"
TINY = {
    f"HOLDFAST_TRAINING_{name}": value
    for name, value in {
        "PRESET": "tiny", "DATA": "/var/ml_model/corpus", "STEPS": FOREVER, "SAVE_EVERY": FOREVER,
        "LOADERS": "0", "LOG_EVERY": FOREVER,
    }.items()
}  # fmt: skip


def write_corpus(training: Training) -> None:
    """What it learns from, on its volume."""
    corpus = training.volume.root / "corpus"
    corpus.mkdir(parents=True)
    words = " ".join(random.Random(7).choices(["hold", "fast", "rope", "knot"], k=8000))
    (corpus / "words.txt").write_text(words)


@pytest.mark.torch
@pytest.mark.slow
def test_an_interruption_notice_ends_in_a_saved_step_and_the_next_pod_resumes_from_it(
    make_cluster: Factory,
) -> None:
    graph = factories.graph(workloads__gpt__env=TINY)
    cluster = make_cluster(*graph.kubernetes(), speed=20.0)
    training = Training(cluster)
    write_corpus(training)
    cluster.start(cronjobs=False)
    training.wait("a few steps", lambda: training.step() >= 3)
    spot = training.job.active

    noticed = time.monotonic()
    with cluster.cordoned():  # the node is gone: the next pod needs another
        spot.conditions.add("DisruptionTarget")
        spot.stop(NOTICE)
    assert time.monotonic() - noticed < NOTICE

    assert until(lambda: spot.exit_codes.get("trainer")) == 75
    (stopped,) = training.lines("stop")
    assert stopped.step == training.lines("step")[-1].step
    assert [bundle.step for bundle in training.volume.bundles()] == [stopped.step]
    resumed = training.wait("the next pod", lambda: training.lines("resume"))
    assert [line.step for line in resumed] == [stopped.step]
    assert training.job.failures == 0
    until(lambda: training.step() > stopped.step, 60)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("restart", ["container", "all-containers"])
def test_a_trainer_that_fails_on_a_lost_volume_finds_it_refilled(
    make_cluster: Factory, restart: str
) -> None:
    """In another pod, which asks the store; or in the same, whose `recover` runs again."""
    graph = factories.graph(workloads__gpt__env=TINY, workloads__gpt__restart=restart)
    cluster = make_cluster(*graph.kubernetes(), speed=20.0)
    training = Training(cluster)
    write_corpus(training)
    cluster.start(cronjobs=False)
    training.wait("a few steps", lambda: training.step() >= 3)
    training.job.active.stop(NOTICE)
    saved = training.wait("a save", lambda: training.lines("stop"))[-1].step
    training.wait("the next pod", lambda: training.lines("resume"))
    training.operator.result("backup")

    pod = training.job.active
    shutil.rmtree(training.newest().path.parents[1])
    processes.kill_tree(f"{pod.tag}trainer/")
    resumed = training.wait("a trainer that resumes", lambda: training.lines("resume")[1:])

    assert [line.step for line in resumed] == [saved]
    if restart == "container":
        assert resumed[0].pod != pod.name
        assert pod.restarts == {"trainer": 1}
        assert training.job.failures == 1
    else:
        assert resumed[0].pod == pod.name
        assert pod.restarts == {"recover": 1, "trainer": 1}

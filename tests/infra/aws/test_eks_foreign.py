"""Pods of someone else's on EKS: who of them may read the backups."""

from typing import Any

import pytest

from infra.plan.graph import Graph
from policy.check import violations
from testkit.eks_factories import graph, problems
from testkit.factories import BUCKET, FOREIGN

L = "workloads__llama"
THEIRS = {**FOREIGN, "service_account": "llama-trainer"}
BY_KEY = {"existing": {**BUCKET["existing"], "credentials_secret": "keys"}}
ASSOCIATION = "aws:eks/podIdentityAssociation:PodIdentityAssociation"


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{L: THEIRS})


def test_their_account_reads_and_ours_write(declared: Graph):
    accounts = {
        each.name: each.inputs["serviceAccount"]
        for each in declared.find(ASSOCIATION)
        if each.inputs["namespace"] == "team-a" and each.name.startswith("llama")
    }

    assert accounts == {
        "llama-reader": "llama-trainer",
        "llama-keeper": "holdfast-llama-checkpoints",
        "llama-pruner": "llama-backup",
    }
    assert not declared.find("ServiceAccount", "llama-trainer")


def test_every_policy_holds_and_no_job_of_theirs_is_declared(declared: Graph):
    assert not violations(declared)
    assert not declared.find("kubernetes:batch/v1:Job", "llama")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({L: FOREIGN}, "workloads.llama.service_account: missing: name the ServiceAccount of its "
         "pods, which then may read the backups"),
        ({L: {**THEIRS, "namespace": "training", "service_account": "gpt"}}, "workloads.llama."
         "service_account: gpt is the account of workload gpt too, and reads the backups of one: "
         "give the pods of each an account of their own"),
    ],
)  # fmt: skip
def test_pods_that_could_not_read_the_backups_are_refused(changes: dict[str, Any], line: str):
    assert problems(**changes) == [line]


def test_with_the_key_of_a_bucket_no_account_is_asked_for():
    assert problems(backup_store=BY_KEY, **{L: FOREIGN}) == []

"""Someone else's tracking server on EKS: its tasks reach its bucket by their own identity."""

from typing import Any

import pytest

from infra.plan.cost import monthly
from infra.plan.graph import Graph
from policy.check import violations
from testkit.eks_factories import DIGEST, allows, graph, policy_of, problems, role

E = "pipeline__existing"
KEY = "arn:aws:kms:us-east-1:123456789012:key/abc"
SERVER: dict[str, Any] = {
    "namespace": "mlflow",
    "deployment": "mlflow",
    "mlflow_version": "3.17.2",
    "image": f"registry/tracking{DIGEST}",
    "database": {"host": "db.example", "secret": "mlflow-owner", "reader": "mlflow-reader"},
    "artifacts": {"bucket": {"url": "s3://team-files/mlflow", "key_arn": KEY}},
}
FILE = "arn:aws:s3:::team-files/mlflow/1/model"


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{E: SERVER})


def may(who: str, action: str, declared: Graph, arn: str = FILE) -> bool:
    return allows(policy_of(role(f"pipeline-{who}", declared), declared), action, arn)


def test_the_policy_pack_finds_nothing_to_complain_about(declared: Graph):
    assert not violations(declared)


def test_backups_read_the_bucket_and_restores_write_it_below_its_prefix(declared: Graph):
    assert may("keeper", "s3:GetObject", declared)
    assert not may("keeper", "s3:PutObject", declared)
    assert may("reader", "s3:GetObject", declared)
    assert may("reader", "s3:PutObject", declared)
    for who in ("keeper", "reader"):
        assert not may(who, "s3:GetObject", declared, "arn:aws:s3:::team-files/other/model")
    assert not may("pruner", "s3:GetObject", declared)


def test_backups_write_the_store_and_restores_only_read_it(declared: Graph):
    kept = "arn:aws:s3:::test-backups/holdfast/test/data/pipeline/tracking/gen-0001/x"

    assert may("keeper", "s3:PutObject", declared, kept)
    assert not may("reader", "s3:PutObject", declared, kept)
    assert may("reader", "s3:GetObject", declared, kept)


def test_the_tasks_get_the_roles_and_the_server_keeps_its_own(declared: Graph):
    associations = declared.find("aws:eks/podIdentityAssociation:PodIdentityAssociation")
    accounts = {
        r.inputs["serviceAccount"] for r in associations if r.inputs["namespace"] == "mlflow"
    }

    assert accounts == {"holdfast-pipeline", "holdfast-pipeline-restore", "pipeline-backup"}


def test_a_bucket_with_credentials_of_its_own_needs_no_role_for_artifacts():
    bucket = {"url": "s3://files", "endpoint": "https://s3.example", "credentials_secret": "keys"}
    declared = graph(
        backup_store={"existing": {**bucket, "url": "s3://backups"}},
        **{E: {**SERVER, "artifacts": {"bucket": bucket}}},
    )

    assert not declared.find("aws:iam/role:Role", "pipeline-keeper-role")


def test_the_plan_has_no_price_for_what_someone_else_made(declared: Graph):
    without = {cost.what for cost in monthly(graph())}

    assert {cost.what for cost in monthly(declared)} == without


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "holdfast-tracking:dev"}, "pipeline.existing.image: holdfast-tracking:dev"),
        ({"artifacts": {"bucket": {"url": "s3://test-backups/mlflow"}}},
         "pipeline.existing.artifacts: s3://test-backups/mlflow is in the backup store's bucket"),
    ],
)  # fmt: skip
def test_a_wrong_setting_says_what_to_do(changes: dict[str, Any], said: str):
    (problem,) = problems(**{E: {**SERVER, **changes}})

    assert said in problem

"""Experiment tracking on EKS: its disk, its bucket, and the right to use it."""

from typing import Any

import pytest

from infra.plan.cost import monthly
from infra.plan.graph import Graph
from policy.check import violations
from testkit.eks_factories import DIGEST, graph, policy_of, problems
from testkit.factories import HOST_PATH

BUCKET = "aws:s3/bucket:Bucket"
TRACKING: dict[str, Any] = {
    "image": f"registry/tracking{DIGEST}",
    "database": {
        "kind": "postgresql",
        "image": f"registry/postgres{DIGEST}",
        "volume": {"kind": "ebs", "name": "tracking-database", "size": "20Gi", "zone": "use1-az1"},
    },
    "artifacts": {"create": {"name": "test-artifacts"}},
}
T = "pipeline__tracking"


@pytest.fixture(scope="module")
def declared() -> Graph:
    return graph(**{T: TRACKING})


def statements(declared: Graph) -> dict[str, dict[str, Any]]:
    role = next(r for r in declared.find("aws:iam/role:Role") if "artifacts" in r.name)
    return {s["Sid"]: s for s in policy_of(role, declared)["Statement"]}


def test_the_policy_pack_finds_nothing_to_complain_about(declared: Graph):
    assert not violations(declared)


def test_the_artifacts_bucket_is_private_versioned_and_kept(declared: Graph):
    (bucket,) = [b for b in declared.find(BUCKET) if b.inputs["bucket"] == "test-artifacts"]

    assert bucket.options.protect and bucket.options.retain_on_delete
    (versions,) = declared.find("aws:s3/bucketVersioning:BucketVersioning", "artifacts-versions")
    assert versions.inputs["versioningConfiguration"]["status"] == "Enabled"


def test_the_tracking_server_alone_may_use_the_artifacts_bucket(declared: Graph):
    (access,) = declared.find(
        "aws:eks/podIdentityAssociation:PodIdentityAssociation", "artifacts-access"
    )

    assert (access.inputs["namespace"], access.inputs["serviceAccount"]) == ("pipeline", "tracking")
    found = statements(declared)
    assert found["Objects"]["Resource"] == "arn:aws:s3:::test-artifacts/*"
    assert "s3:DeleteObjectVersion" not in found["Objects"]["Action"]


def test_an_existing_bucket_is_used_below_its_prefix_and_with_its_own_key():
    key = "arn:aws:kms:us-east-1:123456789012:key/abc"
    existing = {"url": "s3://shared/mlflow", "key_arn": key}
    found = statements(graph(**{T: {**TRACKING, "artifacts": {"existing": existing}}}))

    assert found["List"]["Condition"] == {"StringLike": {"s3:prefix": ["mlflow", "mlflow/*"]}}
    assert found["Objects"]["Resource"] == "arn:aws:s3:::shared/mlflow/*"
    context = found["Key"]["Condition"]["StringLike"]["kms:EncryptionContext:aws:s3:arn"]
    assert context == ["arn:aws:s3:::shared", "arn:aws:s3:::shared/mlflow/*"]


def test_the_plan_prices_the_databases_disk_and_names_the_bucket(declared: Graph):
    lines = {cost.what: cost.dollars for cost in monthly(declared)}

    assert lines["tracking-database-disk: 20 GiB gp3"] == pytest.approx(1.6)
    assert lines["artifacts-bucket: by what it holds"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "holdfast-tracking:dev"}, "pipeline.tracking.image: holdfast-tracking:dev"),
        (
            {"artifacts": {"create": {"name": "test-backups"}}},
            "pipeline.tracking.artifacts: s3://test-backups is in the backup store's bucket",
        ),
        (
            {"artifacts": {"volume": {**HOST_PATH, "name": "files"}}},
            "pipeline.tracking.artifacts.volume: host-path cannot follow a pod",
        ),
    ],
)
def test_a_wrong_setting_says_what_to_do(changes: dict[str, Any], said: str):
    (problem,) = problems(**{T: {**TRACKING, **changes}})

    assert said in problem


def rights(declared: Graph, identity: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The service account of one of the pipeline's identities, and what it may do."""
    name = f"pipeline-{identity}"
    (access,) = declared.find("aws:eks/podIdentityAssociation:PodIdentityAssociation", name)
    (role,) = declared.find("aws:iam/role:Role", f"{name}-role")
    document = policy_of(role, declared)
    return access.inputs["serviceAccount"], {s["Sid"]: s for s in document["Statement"]}


def test_a_backup_reads_artifacts_and_writes_copies_and_a_restore_the_other_way_round(
    declared: Graph,
):
    """So that no one pod can destroy both the originals and the copies."""
    keeper, backs_up = rights(declared, "keeper")
    reader, restores = rights(declared, "reader")

    assert (keeper, reader) == ("holdfast-pipeline", "holdfast-pipeline-restore")
    assert backs_up["ArtifactsObjects"]["Action"] == ["s3:GetObject"]
    assert "Write" in backs_up
    assert "s3:PutObject" in restores["ArtifactsObjects"]["Action"]
    assert "Write" not in restores and "Delete" not in restores
    assert "kms:GenerateDataKey" not in backs_up["ArtifactsKey"]["Action"]


def test_a_backup_reads_what_others_keep_but_not_their_data(declared: Graph):
    _, backs_up = rights(declared, "keeper")
    others = backs_up["ReadWhatOthersKeep"]["Resource"]

    assert [arn for arn in others if arn.endswith("/snapshots/*")]
    assert [arn for arn in others if arn.endswith("/manifests/*")]
    assert not [arn for arn in others if "/data/" in arn]


def test_the_schedule_prunes_the_store_and_never_reaches_an_artifact(declared: Graph):
    account, prunes = rights(declared, "pruner")

    assert account == "pipeline-backup"
    assert not [sid for sid in prunes if sid.startswith("Artifacts")]


def test_artifacts_on_a_volume_need_no_right_to_a_bucket():
    files = {"kind": "efs", "name": "tracking-artifacts", "size": "100Gi"}
    declared = graph(**{T: {**TRACKING, "artifacts": {"volume": files}}})
    _, backs_up = rights(declared, "keeper")

    assert not [sid for sid in backs_up if sid.startswith("Artifacts")]
    assert not violations(declared)


def test_without_a_backup_no_pod_of_the_pipeline_reaches_the_store():
    declared = graph(**{T: TRACKING}, pipeline__backup={"enabled": False})

    assert not declared.find("aws:iam/role:Role", "pipeline-keeper-role")


@pytest.mark.parametrize(
    ("artifacts", "key", "value"),
    [
        ({"url": "s3://files", "region": "eu-west-1"}, "region", "eu-west-1"),
        (
            {"url": "s3://files", "endpoint": "https://minio.example"},
            "endpoint",
            "https://minio.example",
        ),
    ],
)
def test_a_bucket_that_is_reached_in_another_way_than_the_stores_is_refused(
    artifacts: dict[str, Any], key: str, value: str
):
    tracking = {**TRACKING, "artifacts": {"existing": artifacts}}
    found = problems(**{T: tracking})

    assert len(found) == 1
    assert found[0].startswith(f"pipeline.tracking.artifacts.existing.{key}: {value} is not that")
    assert not problems(**{T: tracking}, pipeline__backup={"enabled": False})

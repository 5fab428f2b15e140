"""What the cluster refuses, before the first resource: against a kubectl that plays a cluster."""

from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.kubernetes.preflight import check
from infra.plan.graph import collect
from infra.stack import build
from testkit import eks_factories, factories
from testkit.factories import HOST_PATH, WORKLOAD
from tests.infra.kubernetes.fake_kubectl import Cluster, Manifest, thing

OURS = {"app.kubernetes.io/part-of": "holdfast"}
GONE = "uid-of-a-claim-that-is-gone"


def claim(name: str = "checkpoints-pvc", **fields: Any) -> Manifest:
    status = {"phase": fields.pop("phase", "Bound")}
    return thing("PersistentVolumeClaim", name, "training", labels=OURS, status=status, **fields)


def volume(name: str = "checkpoints", size: str = "10Gi", **fields: Any) -> Manifest:
    """A PersistentVolume as the stack of `factories` makes it."""
    path = fields.pop("path", "/data/checkpoints")
    reference = {
        "namespace": "training", "name": f"{name}-pvc",
        "uid": fields.pop("bound_to", f"uid-of-{name}-pvc"),
    }  # fmt: skip
    term = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}
    spec = fields.pop("spec", {
        "hostPath": {"path": path, "type": "DirectoryOrCreate"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
    })  # fmt: skip
    spec |= {"capacity": {"storage": size}, "claimRef": reference}
    return thing("PersistentVolume", f"{name}-vol", labels=OURS, spec=spec, **fields)


def holder(name: str = "kanister-job-1", held: str = "checkpoints-pvc") -> Manifest:
    volumes = [{"persistentVolumeClaim": {"claimName": held}}]
    return thing("Pod", name, "training", spec={"volumes": volumes})


def refusals(**changes: Any) -> list[str]:
    settings = factories.settings(**changes)
    return refused(settings)


def refused(settings: Any) -> list[str]:
    try:
        check(settings, Kubectl(settings.access))
    except ClusterError as error:
        return str(error).splitlines()
    return []


def test_a_first_up_finds_nothing_and_goes_on(cluster: Cluster):
    assert refusals() == []


def test_a_stack_that_is_as_it_should_be_goes_on(cluster: Cluster):
    cluster.set(claim(), volume(), thing("Namespace", "training", labels=OURS))

    assert refusals() == []
    assert not any(call.startswith("patch") for call in cluster.calls)


ALL_CONTAINERS = {"workloads__gpt__restart": "all-containers"}


def test_a_cluster_that_cannot_restart_all_containers_keeps_its_job(cluster: Cluster):
    cluster.does_not_know("RestartAllContainers")

    assert refusals(**ALL_CONTAINERS) == [
        "workloads.gpt.restart: the API server knows no all-containers: it needs Kubernetes 1.36, "
        "or the feature gates RestartAllContainersOnContainerExits and NodeDeclaredFeatures on all "
        "its parts: use container, or upgrade the cluster"
    ]
    assert refusals() == []


def test_a_cluster_is_asked_what_it_can_restart_only_where_it_matters(cluster: Cluster):
    assert refusals() == []
    assert not any(call.startswith("create") for call in cluster.calls)

    assert refusals(**ALL_CONTAINERS) == []
    (asked,) = [call for call in cluster.calls if call.startswith("create")]
    assert "--dry-run=server" in asked


def test_a_claim_that_is_being_deleted_stops_with_the_pods_that_keep_it(cluster: Cluster):
    cluster.set(claim(leaving=True), volume(), holder(), holder("other", "another-pvc"))

    assert refusals() == [
        "workloads.gpt.volume: claim checkpoints-pvc in training is being deleted: pods keep it: "
        "kubectl -n training delete pod kanister-job-1, then run pulumi up --refresh, which makes "
        "it again; the data stay"
    ]


def test_a_claim_that_has_lost_its_volume_stops(cluster: Cluster):
    cluster.set(claim(phase="Lost"))

    (line,) = refusals()
    assert "kubectl -n training delete pvc checkpoints-pvc" in line


def test_a_volume_that_is_deleted_under_its_claim_stops(cluster: Cluster):
    cluster.set(claim(), volume(leaving=True))

    (line,) = refusals()
    assert "PersistentVolume checkpoints-vol is being deleted" in line
    assert "kubectl -n training delete pvc checkpoints-pvc" in line


@pytest.mark.parametrize(("preview", "kept"), [(True, True), (False, False)])
def test_a_volume_of_a_claim_that_is_gone_goes_to_the_one_that_waits_for_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, preview: bool, kept: bool
):
    cluster.set(claim(phase="Pending"), volume(bound_to=GONE))
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: preview)

    assert refusals() == []
    assert ("uid" in cluster.objects[1]["spec"]["claimRef"]) == kept


@pytest.mark.parametrize("missing", ["PersistentVolumeClaim", "PersistentVolume"])
def test_what_someone_deleted_and_the_record_still_has_stops(cluster: Cluster, missing: str):
    """Pulumi would say that nothing changes, and the trainer would wait for ever."""
    there = [claim(), volume(), claim("holdfast-store-pvc"), store()]
    cluster.set(*(each for each in there if each["kind"] != missing))

    with pytest.raises(ClusterError, match=rf"{missing.lower()}/\S+.* is gone from the cluster, "
                       "but not from the stack's record: run pulumi up --refresh"):  # fmt: skip
        collect(factories.settings(), "test", program=build)


def test_what_this_very_up_makes_is_not_missed(cluster: Cluster):
    there = [claim(), volume(), claim("holdfast-store-pvc"), store()]

    def create(kind: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        cluster.set(*there)
        return name, {}

    graph = collect(factories.settings(), "test", program=build, create=create)

    assert graph.find("Job", "gpt")


def store() -> Manifest:
    made = volume("holdfast-store-training", "50Gi", path="/data/store")
    made["spec"]["claimRef"] |= {"name": "holdfast-store-pvc", "uid": "uid-of-holdfast-store-pvc"}
    return made


def test_a_volume_never_shrinks(cluster: Cluster):
    cluster.set(claim(), volume(size="20Gi"))

    assert refusals(workloads__gpt__volume__size="10Gi") == [
        "workloads.gpt.volume.size: 10Gi is less than the 20Gi that the volume has: a volume never "
        "shrinks; use another volume name, which the next pod fills from the store"
    ]
    assert refusals(workloads__gpt__volume__size="20480Mi") == []
    assert refusals(workloads__gpt__volume__size="30Gi") == []


@pytest.mark.parametrize(
    "changes",
    [{"path": "/data/elsewhere"}, {"node": "node-2"},
     {"kind": "nfs", "server": "a", "path": "/b", "node": factories.REMOVED}],
)  # fmt: skip
def test_a_volume_does_not_move(cluster: Cluster, changes: dict[str, Any]):
    cluster.set(claim(), volume())
    moved = {f"workloads__gpt__volume__{key}": value for key, value in changes.items()}

    (line,) = refusals(**moved)
    assert line.startswith(
        "workloads.gpt.volume: volume checkpoints is at /data/checkpoints of node node-1, and a "
        "PersistentVolume cannot move: "
    )


def test_a_volume_has_no_writers_in_two_namespaces(cluster: Cluster):
    """The hook before a Job waits for the pods of its own namespace only."""
    cluster.set(claim(), volume())

    (line,) = refusals(workloads__gpt__namespace="other")
    assert line.startswith(
        "workloads.gpt.volume: volume checkpoints is claimed in namespace training, "
    )


def test_a_volume_that_is_left_out_is_said_with_where_its_data_stay(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "info", said.append)
    cluster.set(claim(), volume("old"))

    assert refusals() == []
    assert said == [
        "volume old is not in the settings any more: its PersistentVolume goes, and what it holds "
        "stays at /data/checkpoints of node node-1"
    ]


def test_a_namespace_that_the_stack_made_is_not_deleted_under_a_users_claim(cluster: Cluster):
    mine = thing("PersistentVolumeClaim", "mine", "training", status={"phase": "Bound"})
    cluster.set(thing("Namespace", "training", labels=OURS), mine)
    existing = {"kind": "existing-claim", "name": "mine", "size": "1Ti"}

    (line,) = refusals(workloads__gpt__volume=existing, backup_store=factories.BUCKET)

    assert line.startswith("namespace training: this stack made it and would now delete it, with "
                           "persistentvolumeclaim/mine: ")  # fmt: skip


def test_a_namespace_that_is_left_out_is_not_deleted_with_a_users_claim(cluster: Cluster):
    mine = thing("PersistentVolumeClaim", "mine", "training", status={"phase": "Bound"})
    cluster.set(thing("Namespace", "training", labels=OURS), mine)

    (line,) = refusals(workloads__gpt__namespace="elsewhere")
    assert "with persistentvolumeclaim/mine" in line
    cluster.set(thing("Namespace", "training", labels=OURS), claim())
    assert refusals(workloads__gpt__namespace="elsewhere") == []


def test_a_namespace_of_the_users_own_is_left_alone(cluster: Cluster):
    mine = thing("PersistentVolumeClaim", "mine", "training", status={"phase": "Bound"})
    cluster.set(thing("Namespace", "training"), mine)
    existing = {"kind": "existing-claim", "name": "mine", "size": "1Ti"}

    assert refusals(workloads__gpt__volume=existing, backup_store=factories.BUCKET) == []


def test_a_cluster_that_does_not_answer_stops_before_the_first_resource(cluster: Cluster):
    cluster.refuse("Unable to connect: no route")
    made: list[str] = []

    with pytest.raises(ClusterError, match="Unable to connect: no route"):
        collect(factories.settings(), "test", program=build, create=lambda k, n, i: made.append(n))  # type: ignore[arg-type]
    assert made == []


class TestOnEks:
    """An `aws` on the PATH says how the cluster is reached."""

    @pytest.fixture(autouse=True)
    def aws(self, tmp_path: Path, cluster: Cluster) -> Path:
        self.answer = tmp_path / "aws"
        self.says("exit 0")
        return self.answer

    def says(self, script: str) -> None:
        self.answer.write_text(f"#!/bin/sh\n{script}\n")
        self.answer.chmod(0o755)

    def test_what_the_hook_needs_is_tried_before_the_first_resource(self, cluster: Cluster):
        self.says('echo "AccessDeniedException: no eks:DescribeCluster" >&2; exit 254')

        (line,) = refused(eks_factories.settings())
        assert line.startswith("aws cannot reach cluster test (AccessDeniedException")

    def test_a_program_that_is_missing_is_said_also_on_a_first_up(self, cluster: Cluster):
        self.answer.unlink()

        (line,) = refused(eks_factories.settings())
        assert line.startswith("aws is not on the PATH: install it")

    def test_a_cluster_that_the_first_up_makes_is_not_missed(self, cluster: Cluster):
        self.says(
            'echo "ResourceNotFoundException: No cluster found for name: test." >&2; exit 254'
        )

        assert refused(eks_factories.settings()) == []
        assert cluster.calls == []

    def test_a_stack_without_pods_asks_no_cluster(self, cluster: Cluster):
        self.says("exit 1")
        settings = eks_factories.settings(images=factories.REMOVED)

        assert collect(settings, "test", program=build).find("eks:index:Cluster")

    def disk(self, **annotations: str) -> Manifest:
        made = {"holdfast.dev/made-by-stack": "true", **annotations}
        handle = {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"}}
        return volume("checkpoints", "20Gi", spec=handle, annotations=made)

    @pytest.mark.parametrize(
        ("stores", "fate"),
        [("deletable", "would delete checkpoints with all that it holds"),
         ("protected", "checkpoints is protected, and `up` would stop at it half-way")],
    )  # fmt: skip
    def test_a_disk_that_would_go_needs_a_word(self, cluster: Cluster, stores: str, fate: str):
        cluster.set(self.disk())
        changes = {"workloads__gpt__volume__name": "other", "data_stores": stores}

        (line,) = refused(eks_factories.settings(**changes))
        assert fate in line
        assert line.endswith("take the change back, or say discard: [checkpoints]")
        assert refused(eks_factories.settings(**changes, discard=["checkpoints"])) == []

    def test_no_disk_moves_to_another_zone(self, cluster: Cluster):
        cluster.set(self.disk(**{"holdfast.dev/zone": "use1-az1"}))
        there = {"node_groups__training__cpu__zone": "use1-az2",
                 "workloads__gpt__volume__zone": "use1-az2"}  # fmt: skip

        (line,) = refused(eks_factories.settings(**there, discard=["checkpoints"]))
        assert "volume checkpoints is in use1-az1, and AWS moves none to use1-az2" in line
        moved = {**there, "workloads__gpt__volume__name": "other"}
        assert refused(eks_factories.settings(**moved, discard=["checkpoints"])) == []

    def test_a_bucket_that_would_go_needs_a_word(self, cluster: Cluster):
        config = thing(
            "ConfigMap", "holdfast-checkpoints-pvc", "training",
            data={"HOLDFAST_STORE": "s3://old-backups/holdfast/test"},
            annotations={"holdfast.dev/made-by-stack": "true"},
        )  # fmt: skip
        cluster.set(config)
        changes = {"data_stores": "deletable"}

        (line,) = refused(eks_factories.settings(**changes))
        assert line.startswith("backup_store: the backups are in bucket old-backups: ")
        assert "would delete old-backups with all that it holds" in line
        assert refused(eks_factories.settings(**changes, discard=["old-backups"])) == []
        config["data"]["HOLDFAST_STORE"] = "s3://test-backups/holdfast/test"
        cluster.set(config)
        assert refused(eks_factories.settings(**changes)) == []


def test_a_workload_that_is_taken_out_leaves_its_volume_alone(cluster: Cluster):
    """Its PersistentVolume is in a namespace of the stack still."""
    other = {"run": "other", "volume": {**HOST_PATH, "name": "second", "path": "/data/second"}}
    cluster.set(claim(), volume(), volume("second", path="/data/second"))

    assert refusals(workloads={"gpt": WORKLOAD, "second": other}) == []
    assert refusals() == []

"""Every kind of volume becomes a PersistentVolume and a claim that the workload uses alike."""

import json
from typing import Any

import pytest

from infra.plan.graph import Graph
from testkit import factories
from testkit.eks_factories import EBS, EFS, LUSTRE, graph, problems
from testkit.factories import REMOVED, pod_specs

NFS = {"kind": "nfs", "name": "shared", "size": "1Ti", "server": "nfs.example", "path": "/a"}
ISCSI = {"kind": "iscsi", "name": "block", "size": "1Ti", "portal": "10.0.0.1:3260",
         "iqn": "iqn.2004-04.com.example:a", "lun": 3}  # fmt: skip


def bound(declared: Graph, name: str) -> dict[str, Any]:
    """The spec of a PersistentVolume, after checking that its claim and the trainer use it."""
    (volume,) = declared.find("PersistentVolume", f"{name}-vol")
    (claim,) = [
        c for c in declared.find("PersistentVolumeClaim", f"{name}-pvc")
        if c.inputs["metadata"]["namespace"] == "training"
    ]  # fmt: skip
    spec = volume.inputs["spec"]

    assert spec["persistentVolumeReclaimPolicy"] == "Retain"
    assert spec["claimRef"]["name"] == claim.inputs["metadata"]["name"]
    assert spec["claimRef"]["namespace"] == "training"
    assert claim.inputs["spec"]["volumeName"] == f"{name}-vol"
    for key in ("storageClassName", "accessModes"):
        assert claim.inputs["spec"][key] == spec[key]
    assert claim.inputs["spec"]["resources"]["requests"] == spec["capacity"]
    (pod,) = [pod for kind, pod in pod_specs(declared) if kind == "Job gpt"]
    assert {"name": "volume", "persistentVolumeClaim": {"claimName": f"{name}-pvc"}} in (
        pod["volumes"]
    )
    (trainer,) = pod["containers"]
    assert {"name": "volume", "mountPath": "/var/ml_model"} in trainer["volumeMounts"]
    return spec


def test_ebs_is_a_disk_of_the_stack_in_its_zone():
    declared = graph()
    (disk,) = declared.find("aws:ebs/volume:Volume")
    spec = bound(declared, "checkpoints")

    assert disk.inputs["encrypted"] is True
    assert (disk.inputs["size"], disk.inputs["type"]) == (20, "gp3")
    # Without this tag the driver's policy refuses to attach it.
    assert disk.inputs["tags"]["ebs.csi.aws.com/cluster"] == "true"
    assert spec["accessModes"] == ["ReadWriteOnce"]
    assert spec["csi"] == {
        "driver": "ebs.csi.aws.com", "volumeHandle": f"{disk.name}-id", "fsType": "ext4",
    }  # fmt: skip
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "topology.kubernetes.io/zone", "operator": "In",
         "values": [disk.inputs["availabilityZone"]]}
    ]  # fmt: skip
    assert disk.inputs["availabilityZone"] == "zone-use1-az1"


def test_the_disk_of_a_lost_stack_is_taken_up_and_not_made_again():
    declared = graph(workloads__gpt__volume={**EBS, "volume_id": "vol-0123456789abcdef0"})

    assert declared.find("aws:ebs/volume:Volume") == []
    assert bound(declared, "checkpoints")["csi"]["volumeHandle"] == "vol-0123456789abcdef0"


def test_efs_belongs_to_the_pods_user_and_is_there_in_every_zone():
    declared = graph(workloads__gpt__volume=EFS, run_as=4242)
    (system,) = declared.find("aws:efs/fileSystem:FileSystem")
    (point,) = declared.find("aws:efs/accessPoint:AccessPoint")
    (policy,) = declared.find("aws:efs/fileSystemPolicy:FileSystemPolicy")
    (backup,) = declared.find("aws:efs/backupPolicy:BackupPolicy")
    targets = declared.find("aws:efs/mountTarget:MountTarget")
    spec = bound(declared, "shared")

    assert system.inputs["encrypted"] is True
    assert point.inputs["posixUser"] == {"uid": 4242, "gid": 4242}
    assert point.inputs["rootDirectory"]["creationInfo"]["permissions"] == "0770"
    assert backup.inputs["backupPolicy"] == {"status": "ENABLED"}
    assert len({t.inputs["subnetId"] for t in targets}) == 3
    assert {tuple(t.inputs["securityGroups"]) for t in targets} == {("traffic-efs-id",)}
    assert "aws:SecureTransport" in policy.inputs["policy"]
    assert json.loads(policy.inputs["policy"])["Statement"][1]["Effect"] == "Deny"
    assert spec["accessModes"] == ["ReadWriteMany"]
    assert spec["csi"] == {
        "driver": "efs.csi.aws.com", "volumeHandle": f"efs:{system.name}-id::{point.name}-id",
    }  # fmt: skip


def test_lustre_is_persistent_backed_up_and_given_to_the_pods_user():
    declared = graph(workloads__gpt__volume=LUSTRE)
    (system,) = declared.find("aws:fsx/lustreFileSystem:LustreFileSystem")
    (prepare,) = declared.find("Job", "prepare-fast")
    spec = bound(declared, "fast")

    assert system.inputs["deploymentType"] == "PERSISTENT_2"
    assert system.inputs["automaticBackupRetentionDays"] == 7
    assert system.inputs["skipFinalBackup"] is False
    assert system.inputs["storageCapacity"] == 1200
    assert system.inputs["subnetIds"] == "network-private-use1-az1-id"
    assert system.inputs["securityGroupIds"] == ["traffic-lustre-id"]
    assert spec["mountOptions"] == ["flock"]
    assert spec["csi"]["volumeAttributes"]["mountname"] == "fsx"
    # Its root is root's, and the driver gives it to no one.
    pod = prepare.inputs["spec"]["template"]["spec"]
    assert pod["volumes"] == [
        {"name": "volume", "persistentVolumeClaim": {"claimName": "fast-pvc"}}
    ]
    assert "nodeSelector" not in pod
    (own,) = declared.find("PersistentVolume", "prepare-fast-vol")
    assert own.inputs["spec"]["claimRef"]["namespace"] == "holdfast-system"
    assert own.inputs["spec"]["csi"] == spec["csi"]


def test_an_export_follows_new_and_changed_files_and_never_a_deletion():
    volume = {**LUSTRE, "export": "s3://exports/gpt", "backup_days": 0}
    declared = graph(workloads__gpt__volume=volume)
    (link,) = declared.find("aws:fsx/dataRepositoryAssociation:DataRepositoryAssociation")
    (system,) = declared.find("aws:fsx/lustreFileSystem:LustreFileSystem")

    assert link.inputs["s3"] == {"autoExportPolicy": {"events": ["NEW", "CHANGED"]}}
    assert link.inputs["deleteDataInFilesystem"] is False
    assert system.inputs["automaticBackupRetentionDays"] == 0
    assert system.inputs["skipFinalBackup"] is True


@pytest.mark.parametrize(
    ("volume", "source", "mode"),
    [
        (NFS, {"nfs": {"server": "nfs.example", "path": "/a"},
               "mountOptions": ["nfsvers=4.1", "hard"]}, "ReadWriteMany"),
        (ISCSI, {"iscsi": {"targetPortal": "10.0.0.1:3260", "lun": 3, "fsType": "ext4",
                           "iqn": "iqn.2004-04.com.example:a"}}, "ReadWriteOnce"),
    ],
)  # fmt: skip
def test_servers_of_your_own_work_on_any_cluster(volume: dict, source: dict, mode: str):
    declared = factories.graph(workloads__gpt__volume=volume, backup_store=factories.BUCKET)
    spec = bound(declared, volume["name"])

    assert spec["accessModes"] == [mode]
    assert {key: spec[key] for key in source} == source
    assert not {"hostPath", "nodeAffinity", "csi"} & spec.keys()


def test_nothing_of_aws_is_made_on_a_cluster_that_is_not_ours():
    for kind in (EBS, EFS, LUSTRE):
        (line,) = factories.problems(workloads__gpt__volume=kind)
        assert line == (
            f"workloads.gpt.volume: only target eks makes volumes of kind {kind['kind']}: make a "
            "claim with your cluster's own driver and use existing-claim"
        )
    (line,) = factories.problems(backup_store={"create": {"name": "backups"}})
    assert line.startswith("backup_store.create: only target eks makes buckets: ")


def test_classes_for_users_own_claims_keep_what_they_make(eks: Graph):
    (volumes,) = eks.find("StorageClass")
    (snapshots,) = eks.find("VolumeSnapshotClass")

    assert volumes.inputs["reclaimPolicy"] == "Retain"
    assert volumes.inputs["volumeBindingMode"] == "WaitForFirstConsumer"
    assert volumes.inputs["parameters"]["encrypted"] == "true"
    assert snapshots.inputs["deletionPolicy"] == "Retain"
    assert snapshots.inputs["driver"] == volumes.inputs["provisioner"] == "ebs.csi.aws.com"


def test_a_workload_without_a_volume_setting_is_refused():
    assert problems(workloads__gpt__volume=REMOVED) == [
        "workloads.gpt.volume: missing: give volume (where it keeps its bundles)"
    ]

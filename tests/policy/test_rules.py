"""Every rule against scenes that break it and scenes that keep it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from policy.model import RULES, UNKNOWN, Level, Resource
from policy.rules import load_rules
from tests.policy.scenes import (
    ALL_BLOCKED,
    BINDING,
    BUCKET,
    CREATOR,
    DELETER,
    DISK,
    FILE_SYSTEM,
    GUARD,
    LOGGING,
    LOGS,
    LUSTRE,
    OPEN,
    POD_GUARD,
    RESTRICTED,
    ROOT,
    SECURE,
    TAGGED_BY_PROVIDER,
    TAGS,
    TRAINER,
    Scene,
    aws,
    belongs,
    blueprint,
    budget,
    cluster,
    container,
    encrypted,
    group,
    in_prod,
    job,
    key,
    kubernetes,
    launched,
    node_class,
    policy,
    raw_cluster,
    release,
    resource,
    role,
    runtime,
    template,
    without,
)

CLAIM = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
SCRATCH = {"name": "tmp", "emptyDir": {}}

load_rules()
NAMED = {rule.name: rule for rule in RULES}

#: rule -> (what breaks it, what keeps it)
CASES: dict[str, tuple[list[Scene], list[Scene]]] = {
    # encryption
    "ebs-volumes-are-encrypted": (
        [aws("ebs/volume:Volume"), aws("ebs/volume:Volume", encrypted=True)],
        [aws("ebs/volume:Volume", **DISK)],
    ),
    "node-disks-are-encrypted": (
        [
            template(blockDeviceMappings=None),
            template(blockDeviceMappings=[{"deviceName": "/dev/xvda", "ebs": {"volumeSize": 100}}]),
            node_class(blockDeviceMappings=None),
            node_class(blockDeviceMappings=[{"deviceName": "/dev/xvda", "ebs": {"volumeSize": 9}}]),
        ],
        [template(), node_class()],
    ),
    "efs-is-encrypted": ([aws("efs/fileSystem:FileSystem", encrypted=True)], [FILE_SYSTEM]),
    "fsx-is-encrypted": ([aws(LUSTRE)], [aws(LUSTRE, kmsKeyId="arn:aws:kms:…")]),
    "eks-secrets-are-encrypted": (
        [cluster(encryptionConfigKeyArn=None), raw_cluster(encryptionConfig=None)],
        [cluster(), raw_cluster(), resource("eks:index:Cluster", {})],
    ),
    "log-groups-are-encrypted-and-expire": (
        [
            aws("cloudwatch/logGroup:LogGroup", retentionInDays=90),
            aws("cloudwatch/logGroup:LogGroup", kmsKeyId="arn:aws:kms:…", retentionInDays=0),
        ],
        [aws("cloudwatch/logGroup:LogGroup", kmsKeyId="arn:aws:kms:…", retentionInDays=90)],
    ),
    "keys-rotate": ([aws("kms/key:Key")], [aws("kms/key:Key", enableKeyRotation=True)]),
    "storage-classes-encrypt": (
        [
            kubernetes("StorageClass", provisioner="ebs.csi.aws.com"),
            kubernetes(
                "StorageClass", provisioner="ebs.csi.aws.com", parameters={"encrypted": "false"}
            ),
        ],
        [
            kubernetes(
                "StorageClass", provisioner="ebs.csi.aws.com", parameters={"encrypted": "true"}
            ),
            kubernetes("StorageClass", provisioner="efs.csi.aws.com"),
        ],
    ),
    "buckets-are-encrypted": (
        [
            BUCKET,
            [BUCKET, encrypted(BUCKET, "AES256")],
            [BUCKET, encrypted(BUCKET, bucketKeyEnabled=False)],
            [BUCKET, encrypted(LOGS)],
        ],
        [
            [BUCKET, encrypted(BUCKET)],
            [BUCKET, encrypted(BUCKET), LOGS, encrypted(LOGS, "AES256"), LOGGING],
        ],
    ),
    "buckets-refuse-plain-http": (
        [BUCKET, [BUCKET, belongs("Policy", BUCKET, policy='{"Statement": []}')]],
        [[BUCKET, belongs("Policy", BUCKET, policy=SECURE)]],
    ),
    # exposure
    "api-server-is-not-open": (
        [
            cluster(publicAccessCidrs=None),
            cluster(publicAccessCidrs=["0.0.0.0/0"]),
            cluster(publicAccessCidrs=["203.0.113.0/24", "198.0.0.0/8"]),
            cluster(endpointPublicAccess=None, publicAccessCidrs=None),
            raw_cluster(vpcConfig={"endpointPublicAccess": True}),
        ],
        [cluster(), cluster(endpointPublicAccess=False, publicAccessCidrs=None), raw_cluster()],
    ),
    "security-groups-name-their-peers": (
        [
            aws("ec2/securityGroup:SecurityGroup", ingress=[{**OPEN, "cidrBlocks": ["0.0.0.0/0"]}]),
            aws(
                "ec2/securityGroupRule:SecurityGroupRule",
                type="ingress",
                ipv6CidrBlocks=["::/0"],
                **OPEN,
            ),
            aws("vpc/securityGroupIngressRule:SecurityGroupIngressRule", cidrIpv4="0.0.0.0/0"),
        ],
        [
            aws(
                "ec2/securityGroupRule:SecurityGroupRule",
                type="egress",
                cidrBlocks=["0.0.0.0/0"],
                **OPEN,
            ),
            aws("vpc/securityGroupIngressRule:SecurityGroupIngressRule", cidrIpv4="10.0.0.0/16"),
            aws(
                "vpc/securityGroupIngressRule:SecurityGroupIngressRule",
                referencedSecurityGroupId="sg-1",
            ),
        ],
    ),
    "no-public-addresses": (
        [
            aws("ec2/subnet:Subnet", mapPublicIpOnLaunch=True),
            template(networkInterfaces=[{"associatePublicIpAddress": "true"}]),
            aws("ec2/instance:Instance", associatePublicIpAddress=True),
            node_class(associatePublicIPAddress=True),
            node_class(associatePublicIPAddress=None),
        ],
        [aws("ec2/subnet:Subnet", mapPublicIpOnLaunch=False), template(), node_class()],
    ),
    "buckets-are-private": (
        [
            BUCKET,
            [
                BUCKET,
                belongs("PublicAccessBlock", BUCKET, **without(ALL_BLOCKED, "blockPublicPolicy")),
            ],
        ],
        [[BUCKET, belongs("PublicAccessBlock", BUCKET, **ALL_BLOCKED)]],
    ),
    "services-stay-inside": (
        [
            kubernetes("Service", spec={"type": "LoadBalancer"}),
            kubernetes("Service", spec={"type": "NodePort"}),
        ],
        [kubernetes("Service", spec={}), kubernetes("Service", spec={"type": "ClusterIP"})],
    ),
    "nodes-use-imdsv2": (
        [
            template(metadataOptions=None),
            template(metadataOptions={"httpTokens": "optional", "httpPutResponseHopLimit": 1}),
            template(metadataOptions={"httpTokens": "required", "httpPutResponseHopLimit": 2}),
            node_class(metadataOptions={"httpTokens": "required", "httpPutResponseHopLimit": 2}),
        ],
        [template(), node_class()],
    ),
    "no-ssh-keys-on-nodes": (
        [group(remoteAccess={"ec2SshKey": "mine"}), template(keyName="mine")],
        [group(), template()],
    ),
    # permissions
    "iam-names-actions": (
        [
            policy(Action="*"),
            policy(Action=["s3:GetObject", "s3:*"]),
            policy(Action="kms:*"),
            policy(NotAction="iam:*"),
            key(Principal={"AWS": "arn:aws:iam::123456789012:role/someone"}),
        ],
        [policy(), policy(Effect="Deny", Action="*"), key(Principal=ROOT)],
    ),
    "who-writes-copies-deletes-none": (
        [
            policy(
                Action=["s3:PutObject", "s3:DeleteObject"], Resource=["arn:aws:s3:::b/p/data/gpt/*"]
            ),
            policy(
                Action=["s3:DeleteObject", "s3:PutObject"],
                Resource=["arn:aws:s3:::b/p/manifests/gpt/*"],
            ),
        ],
        [
            policy(Action="s3:PutObject", Resource="arn:aws:s3:::b/p/data/gpt/*"),
            policy(Action="s3:DeleteObject", Resource="arn:aws:s3:::b/p/data/gpt/*"),
            policy(Action=["s3:PutObject", "s3:DeleteObject"], Resource="arn:aws:s3:::b/files/*"),
        ],
    ),
    "iam-names-resources": (
        [policy(Resource="*"), policy(Resource=["*"], Action=["ec2:DescribeTags", "s3:GetObject"])],
        [
            policy(),
            policy(Resource="*", Action="ec2:DescribeTags"),
            policy(Resource="*", Condition={"StringEquals": {"aws:ResourceTag/a": "b"}}),
            key(Principal=ROOT),
        ],
    ),
    "iam-trusts-someone": (
        [role("*"), role({"AWS": "*"}), role({"AWS": ["*"]})],
        [
            role({"Service": "pods.eks.amazonaws.com"}),
            role({"AWS": "*"}, Condition={"StringEquals": {"aws:PrincipalOrgID": "o-1"}}),
            aws(
                "ec2/vpcEndpoint:VpcEndpoint",
                policy='{"Statement": {"Effect": "Allow", "Principal": "*"}}',
            ),
        ],
    ),
    "iam-has-no-administrators": (
        [
            aws(
                "iam/rolePolicyAttachment:RolePolicyAttachment",
                policyArn=f"arn:aws:iam::aws:policy/{name}",
            )
            for name in ("AdministratorAccess", "AmazonS3FullAccess")
        ],
        [
            aws(
                "iam/rolePolicyAttachment:RolePolicyAttachment",
                policyArn="arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy",
            )
        ],
    ),
    "no-access-keys": (
        [aws("iam/accessKey:AccessKey"), aws("iam/user:User")],
        [role({"Service": "pods.eks.amazonaws.com"})],
    ),
    "clusters-use-access-entries": (
        [cluster(authenticationMode=None), cluster(authenticationMode="API_AND_CONFIG_MAP")],
        [cluster(), cluster(authenticationMode="Api"), raw_cluster()],
    ),
    "clusters-log-everything": (
        [cluster(enabledClusterLogTypes=["api"]), raw_cluster(enabledClusterLogTypes=None)],
        [cluster(), raw_cluster()],
    ),
    # versions
    "cluster-version-is-pinned": (
        [cluster(version=None), cluster(upgradePolicy=None)],
        [cluster(), raw_cluster()],
    ),
    "addons-are-pinned": (
        [aws("eks/addon:Addon", addonName="coredns")],
        [aws("eks/addon:Addon", addonName="coredns", addonVersion="v1.14.3-eksbuild.3")],
    ),
    "node-images-are-pinned": (
        [group(releaseVersion=None)],
        [group(), group(releaseVersion=None, amiType="CUSTOM")],
    ),
    "charts-are-pinned": (
        [release(), release(version=">=0.100.0"), release(version="0.x")],
        [
            release(version="0.119.0"),
            release(version="v0.5.30"),
            release(chart="./charts/kanister"),
        ],
    ),
    "images-are-pinned": (
        [
            job(container=container(image="tools")),
            job(container=container(image="registry:5000/tools:latest")),
            job(initContainers=[container(image="tools")]),
            blueprint(image="tools"),
        ],
        [
            job(),
            job(container=container(image=f"tools@sha256:{'0' * 64}")),
            blueprint(),
            blueprint(image="{{ .Options.image }}"),
        ],
    ),
    "node-groups-repair-themselves": ([group(nodeRepairConfig=None)], [group()]),
    "registries-keep-tags": (
        [
            aws(
                "ecr/repository:Repository",
                imageTagMutability="MUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
            ),
            aws("ecr/repository:Repository", imageTagMutability="IMMUTABLE"),
        ],
        [
            aws(
                "ecr/repository:Repository",
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
            )
        ],
    ),
    # retention
    "volumes-keep-their-data": (
        [
            kubernetes("PersistentVolume", namespace=None, spec={}),
            kubernetes(
                "PersistentVolume",
                namespace=None,
                spec={"persistentVolumeReclaimPolicy": "Delete"},
            ),
        ],
        [
            kubernetes(
                "PersistentVolume",
                namespace=None,
                spec={"persistentVolumeReclaimPolicy": "Retain"},
            )
        ],
    ),
    "storage-classes-keep-data": (
        [kubernetes("StorageClass", namespace=None)],
        [kubernetes("StorageClass", namespace=None, reclaimPolicy="Retain")],
    ),
    "snapshot-classes-keep-snapshots": (
        [kubernetes("VolumeSnapshotClass", namespace=None, deletionPolicy="Delete")],
        [kubernetes("VolumeSnapshotClass", namespace=None, deletionPolicy="Retain")],
    ),
    "volume-objects-go-with-the-stack": (
        [replace(kubernetes("PersistentVolume", namespace=None), retain_on_delete=True)],
        [
            kubernetes("PersistentVolume", namespace=None),
            replace(kubernetes("PersistentVolume", namespace=None), retain_on_delete=False),
        ],
    ),
    "stores-are-protected": (
        [in_prod(BUCKET), in_prod(FILE_SYSTEM)],
        [in_prod(BUCKET, protect=True), BUCKET],
    ),
    "buckets-are-not-emptied": (
        [in_prod(aws("s3/bucket:Bucket", forceDestroy=True))],
        [in_prod(BUCKET), aws("s3/bucket:Bucket", forceDestroy=True)],
    ),
    "clusters-resist-deletion": (
        [
            in_prod(cluster(deletionProtection=False)),
            in_prod(raw_cluster(deletionProtection=None)),
        ],
        [in_prod(cluster()), cluster(deletionProtection=False)],
    ),
    "buckets-are-versioned": (
        [
            BUCKET,
            [
                BUCKET,
                belongs("Versioning", BUCKET, versioningConfiguration={"status": "Suspended"}),
            ],
        ],
        [
            [
                BUCKET,
                belongs("Versioning", BUCKET, versioningConfiguration={"status": "Enabled"}),
                LOGS,
                LOGGING,
            ]
        ],
    ),
    "exports-keep-deleted-files": (
        [
            aws(
                "fsx/dataRepositoryAssociation:DataRepositoryAssociation",
                s3={"autoExportPolicy": {"events": ["NEW", "CHANGED", "DELETED"]}},
            )
        ],
        [
            aws(
                "fsx/dataRepositoryAssociation:DataRepositoryAssociation",
                s3={"autoExportPolicy": {"events": ["NEW", "CHANGED"]}},
            )
        ],
    ),
    "file-systems-have-a-second-copy": (
        [FILE_SYSTEM, aws(LUSTRE, automaticBackupRetentionDays=0)],
        [
            [
                FILE_SYSTEM,
                replace(
                    aws("efs/backupPolicy:BackupPolicy"), dependencies=frozenset({FILE_SYSTEM.urn})
                ),
            ],
            aws(LUSTRE, automaticBackupRetentionDays=7),
        ],
    ),
    # pods
    "containers-say-what-they-need": (
        [
            job(container=container(resources={})),
            job(container=container(resources={"requests": {"cpu": "1", "memory": "1Gi"}})),
            blueprint(podOverride={"containers": [without(container(), "resources")]}),
        ],
        [job(), blueprint()],
    ),
    "no-privileged-pods": (
        [
            job(hostNetwork=True),
            job(container=container(securityContext={"privileged": True})),
            job(namespace="default", hostPID=True),
        ],
        [job(), job(namespace="kube-system", hostNetwork=True)],
    ),
    "no-host-paths": (
        [job(volumes=[{"name": "v", "hostPath": {"path": "/"}}])],
        [
            job(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
            job(
                namespace="holdfast-system", volumes=[{"name": "v", "hostPath": {"path": "/data"}}]
            ),
        ],
    ),
    "pods-are-restricted": (
        [
            *(job(container=container(securityContext=without(RESTRICTED, k))) for k in RESTRICTED),
            job(container=container(securityContext={**RESTRICTED, "runAsUser": 0})),
            job(
                container=container(
                    securityContext={
                        **RESTRICTED,
                        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
                    }
                )
            ),
            blueprint(podOverride={}),
            runtime(container(securityContext={})),
        ],
        [
            job(),
            job(
                securityContext={"runAsNonRoot": True},
                container=container(securityContext=without(RESTRICTED, "runAsNonRoot")),
            ),
            blueprint(),
            runtime(container()),
            job(namespace="holdfast-system", container=container(securityContext={})),
        ],
    ),
    "user-code-has-no-token": (
        [
            job(automountServiceAccountToken=True),
            job(component="rendezvous", automountServiceAccountToken=None),
            blueprint(podOverride={"containers": [container()]}),
            blueprint(podOverride={"containers": [container()], "volumes": [CLAIM, SCRATCH]}),
        ],
        [
            job(),
            job(component="protection", automountServiceAccountToken=True),
            blueprint(),
            blueprint(podOverride={"containers": [container()], "volumes": [SCRATCH]}),
        ],
    ),
    "no-disruption-budget-on-jobs": (
        [
            [job(), budget(matchLabels=TRAINER)],
            [job(), budget()],
            [
                job(),
                budget(
                    matchExpressions=[
                        {
                            "key": "app.kubernetes.io/component",
                            "operator": "In",
                            "values": ["trainer"],
                        }
                    ]
                ),
            ],
        ],
        [
            [job(), budget(matchLabels={"app.kubernetes.io/component": "rendezvous"})],
            [
                job(),
                budget(
                    matchExpressions=[
                        {"key": "app.kubernetes.io/component", "operator": "DoesNotExist"}
                    ]
                ),
            ],
            [job(namespace="elsewhere"), budget(matchLabels=TRAINER)],
        ],
    ),
    # objects
    "blueprints-have-actions": (
        [kubernetes("Blueprint"), kubernetes("Blueprint", actions={"backup": {"phases": []}})],
        [blueprint()],
    ),
    "no-actionset-is-declared": ([kubernetes("ActionSet")], [blueprint()]),
    "actionsets-are-guarded": (
        [
            CREATOR,
            [CREATOR, GUARD],
            [CREATOR, GUARD, replace(BINDING, inputs={"spec": {"policyName": "it"}})],
        ],
        [[CREATOR, GUARD, BINDING], kubernetes("Role", rules=[{"resources": ["pods"]}])],
    ),
    "pod-deletion-is-guarded": (
        [DELETER, [DELETER, GUARD, BINDING]],
        [
            [DELETER, POD_GUARD, BINDING],
            kubernetes("Role", rules=[{"resources": ["pods"], "verbs": ["create", "delete"]}]),
        ],
    ),
    "no-secret-in-plain-sight": (
        [
            kubernetes("ConfigMap", data={"AWS_SECRET_ACCESS_KEY": "abc"}),
            kubernetes("ConfigMap", data={"settings.ini": "key = AKIAIOSFODNN7EXAMPLE"}),
            kubernetes("ConfigMap", data={"DATABASE": "postgres://me:hunter2@db/x"}),
            job(container=container(env=[{"name": "WANDB_API_KEY", "value": "abc"}])),
        ],
        [
            kubernetes("ConfigMap", data={"TOKENS_PER_STEP": "4096", "TOKEN_FILE": "/run/t"}),
            job(container=container(env=[{"name": "API_KEY", "valueFrom": {"secretKeyRef": {}}}])),
            job(container=container(env=[{"name": "PASSWORD", "value": "$(OTHER)"}])),
        ],
    ),
    "cron-jobs-do-not-overlap": (
        [
            kubernetes("CronJob", spec={}),
            kubernetes("CronJob", spec={"concurrencyPolicy": "Replace"}),
        ],
        [kubernetes("CronJob", spec={"concurrencyPolicy": "Forbid"})],
    ),
    "jobs-do-not-vanish": (
        [kubernetes("Job", spec={"ttlSecondsAfterFinished": 0})],
        [
            job(),
            kubernetes("CronJob", spec={"jobTemplate": {"spec": {"ttlSecondsAfterFinished": 9}}}),
        ],
    ),
    "namespaces-have-pod-security": (
        [
            kubernetes("Namespace", namespace=None),
            kubernetes(
                "Namespace",
                namespace=None,
                labels={"pod-security.kubernetes.io/enforce": "privileged"},
            ),
        ],
        [
            kubernetes(
                "Namespace",
                namespace=None,
                labels={"pod-security.kubernetes.io/enforce": "restricted"},
            ),
            resource(
                "kubernetes:core/v1:Namespace",
                {
                    "metadata": {
                        "name": "holdfast-system",
                        "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
                    }
                },
            ),
        ],
    ),
    "cluster-roles-are-narrow": (
        [
            kubernetes("Role", rules=[{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]),
            kubernetes("ClusterRoleBinding", roleRef={"name": "cluster-admin"}),
        ],
        [CREATOR, kubernetes("RoleBinding", roleRef={"name": "view"})],
    ),
    "providers-know-their-cluster": (
        [resource("pulumi:providers:kubernetes", {"context": "kind-kind"})],
        [
            resource("pulumi:providers:kubernetes", {"clusterIdentifier": "local"}),
            resource("pulumi:providers:kubernetes", {"renderYamlToDirectory": "out"}),
        ],
    ),
    # tags
    "resources-are-tagged": (
        [BUCKET, aws("ec2/vpc:Vpc", tags={"holdfast:project": "holdfast"})],
        [TAGGED_BY_PROVIDER, aws("ec2/vpc:Vpc", tags=TAGS), aws("ec2/route:Route")],
    ),
    "nodes-are-tagged": (
        [
            template(tagSpecifications=None),
            template(tagSpecifications=launched("instance", "volume")),
            replace(template(tagSpecifications=[]), provider=TAGGED_BY_PROVIDER.provider),
        ],
        [template(), template(tagSpecifications=UNKNOWN), aws("ec2/vpc:Vpc")],
    ),
    "roles-share-one-boundary": (
        [
            [aws("iam/role:Role", permissionsBoundary="arn:b"), aws("iam/role:Role")],
            [aws("iam/role:Role", path="/a/"), aws("iam/role:Role", path="/b/")],
        ],
        [
            [aws("iam/role:Role"), aws("iam/role:Role")],
            [aws("iam/role:Role", permissionsBoundary="arn:b", path="/a/")] * 2,
        ],
    ),
    # texts
    "aws-takes-every-text": (
        [
            aws("ec2/securityGroup:SecurityGroup", description="the stack's own"),
            aws("vpc/securityGroupIngressRule:SecurityGroupIngressRule", description="a\nb"),
            aws("iam/role:Role", name="r" * 65),
            replace(aws("iam/role:Role"), name="r" * 57),
            aws("iam/role:Role", description="keeps \u2026"),
            aws("iam/role:Role", path="/no/end"),
            aws("iam/role:Role", assumeRolePolicy='{"a": "' + "b" * 2048 + '"}'),
            aws("kms/alias:Alias", name="alias/a.b"),
            aws("ecr/repository:Repository", name="Holdfast"),
            aws("s3/bucket:Bucket", bucket="with.dots"),
            aws("cloudwatch/logGroup:LogGroup", name="a b"),
            aws("sqs/queue:Queue", name="q" * 81),
        ],
        [
            aws("ec2/securityGroup:SecurityGroup", description="the nodes of the stack (1/2)"),
            replace(aws("iam/role:Role"), name="r" * 56),
            aws("iam/role:Role", description="gpt's backups", path="/teams/ml/"),
            aws("iam/role:Role", assumeRolePolicy='{"a": "b"}' + " " * 3000),
            aws("s3/bucket:Bucket", bucket="backups-1"),
            aws("ec2/vpc:Vpc"),
        ],
    ),
    "aws-takes-every-tag": (
        [
            aws("ec2/vpc:Vpc", tags={"owner": "me, you"}),
            aws("ec2/vpc:Vpc", tags={"aws:owner": "me"}),
            aws("ec2/vpc:Vpc", tags={"k" * 129: "me"}),
            aws("ec2/vpc:Vpc", tags={"owner": "m" * 257}),
            aws("ec2/vpc:Vpc", tags={f"k{number}": "v" for number in range(51)}),
            replace(TAGGED_BY_PROVIDER, inputs={"tags": {f"k{n}": "v" for n in range(50)}}),
            template(tagSpecifications=[{"resourceType": "volume", "tags": {"a": "b;c"}}]),
        ],
        [
            TAGGED_BY_PROVIDER,
            aws(
                "ec2/vpc:Vpc", tags={"ebs.csi.aws.com/cluster": "true", "Zuständig": "ML-Gruppe 1"}
            ),
            template(),
        ],
    ),
}


def together(scene: Scene) -> list[Resource]:
    return scene if isinstance(scene, list) else [scene]


def broken(name: str) -> list[list[Resource]]:
    return [together(scene) for scene in CASES[name][0]]


def kept(name: str) -> list[list[Resource]]:
    return [together(scene) for scene in CASES[name][1]]


each_rule = pytest.mark.parametrize("name", CASES)


@each_rule
def test_what_breaks_a_rule_is_reported(name: str) -> None:
    for scene in broken(name):
        found = list(NAMED[name].violations(scene))

        assert found, scene
        for violation in found:
            assert violation.urn in {resource_.urn for resource_ in scene}
            assert ": " in violation.message, f"says no remedy: {violation.message}"


@each_rule
def test_what_keeps_a_rule_is_not(name: str) -> None:
    for scene in kept(name):
        assert list(NAMED[name].violations(scene)) == [], scene


@each_rule
def test_what_a_preview_does_not_know_is_not_held_against_it(name: str) -> None:
    for scene in kept(name):
        for unsure in with_unknowns(scene):
            assert list(NAMED[name].violations(unsure)) == [], unsure


@each_rule
def test_an_unknown_value_never_stops_a_rule(name: str) -> None:
    for scene in broken(name):
        for unsure in with_unknowns(scene):
            list(NAMED[name].violations(unsure))


def with_unknowns(scene: list[Resource]) -> Iterator[list[Resource]]:
    """The scene with one part of one resource unknown, for each part of each."""
    for number, each in enumerate(scene):
        for inputs in with_one_unknown(each.inputs):
            yield [*scene[:number], replace(each, inputs=inputs), *scene[number + 1 :]]


def with_one_unknown(value: Any) -> Iterator[Any]:
    """The value with one part of it unknown, for each part."""
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key_, child in children:
        for changed in [UNKNOWN, *with_one_unknown(child)]:
            copy = value.copy()
            copy[key_] = changed
            yield copy


def test_every_rule_has_a_scene_for_and_against_it() -> None:
    assert set(CASES) == set(NAMED)
    assert len(NAMED) == len(RULES), "two rules share a name"
    for name in CASES:
        assert broken(name) and kept(name), name


def test_descriptions_say_what_to_do() -> None:
    for rule in RULES:
        assert rule.description.endswith("."), rule.name
        assert len(rule.description) < 240, rule.name
    assert {rule.level for rule in RULES} == {Level.MANDATORY, Level.ADVISORY}


@pytest.mark.parametrize(
    ("name", "scene", "config"),
    [
        ("images-are-pinned", job(), {"digests_only": True}),
        ("api-server-is-not-open", cluster(), {"widest": 32}),
        ("no-privileged-pods", job(namespace="kube-system", hostNetwork=True), {"namespaces": {}}),
        ("stores-are-protected", BUCKET, {"stacks": ["dev"]}),
        ("resources-are-tagged", TAGGED_BY_PROVIDER, {"required": ["team"]}),
    ],
)
def test_a_rule_can_be_made_stricter(name: str, scene: Resource, config: dict[str, Any]) -> None:
    assert not list(NAMED[name].violations([scene]))
    assert list(NAMED[name].violations([scene], config))

"""For each rule: what breaks it and what does not. A scene is one resource, or several together."""

import json
from dataclasses import replace
from typing import Any

from policy.model import Resource

Scene = Resource | list[Resource]


def resource(type_: str, inputs: dict[str, Any]) -> Resource:
    """A resource called ``it`` in stack dev."""
    return Resource(f"urn:pulumi:dev::holdfast::{type_}::it", type_, "it", inputs)


def aws(token: str, **inputs: Any) -> Resource:
    """``aws("ebs/volume:Volume", encrypted=True)``."""
    return resource(f"aws:{token}", inputs)


def belongs(part: str, bucket: Resource, **inputs: Any) -> Resource:
    """A resource that completes a bucket, by name and by dependency."""
    inputs.setdefault("bucket", bucket.inputs["bucket"])
    made = aws(f"s3/bucket{part}:Bucket{part}", **inputs)
    return replace(made, dependencies=frozenset({bucket.urn}))


def kubernetes(kind: str, *, namespace: str | None = "training", **body: Any) -> Resource:
    """An object; its labels, if any, are in ``labels``."""
    metadata = {"name": "it", "labels": body.pop("labels", {})}
    if namespace is not None:
        metadata["namespace"] = namespace
    return resource(f"kubernetes:group/v1:{kind}", {"kind": kind, "metadata": metadata, **body})


def statement(**changes: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*", **changes}


def policy(**changes: Any) -> Resource:
    return aws(
        "iam/rolePolicy:RolePolicy", policy=json.dumps({"Statement": [statement(**changes)]})
    )


def key(**changes: Any) -> Resource:
    document = {"Statement": [statement(Action="kms:*", Resource="*", **changes)]}
    return aws("kms/key:Key", policy=json.dumps(document), enableKeyRotation=True)


def role(principal: Any, **changes: Any) -> Resource:
    document = {
        "Statement": [
            {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", **changes}
        ]
    }
    return aws("iam/role:Role", assumeRolePolicy=json.dumps(document))


RESTRICTED: dict[str, Any] = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
AMOUNTS = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}


def container(**changes: Any) -> dict[str, Any]:
    sound = {"name": "c", "image": "tools:1.2", "resources": AMOUNTS, "securityContext": RESTRICTED}
    return {**sound, **changes}


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k != name}


def job(namespace: str = "training", component: str = "trainer", **spec: Any) -> Resource:
    """A Job; give its container by ``container=`` or more of the pod's spec by name."""
    first = spec.pop("container", container())
    pod = {"automountServiceAccountToken": False, "containers": [first], **spec}
    labels = {"app.kubernetes.io/component": component}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return kubernetes("Job", namespace=namespace, spec={"template": template})


def blueprint(**task: Any) -> Resource:
    override = {
        "automountServiceAccountToken": False,
        "containers": [without(container(), "image")],
    }
    args = {
        "namespace": "{{ .PVC.Namespace }}",
        "image": "tools:1.2",
        "podOverride": override,
        **task,
    }
    phase = {"func": "KubeTask", "name": "push", "args": args}
    return kubernetes("Blueprint", namespace="kanister", actions={"backup": {"phases": [phase]}})


def runtime(first: Any) -> Resource:
    """What a TrainJob runs on; Trainer asks for a container."""
    pod = {"metadata": {"labels": {}}, "spec": {"containers": [first]}}
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    spec = {"template": {"spec": {"replicatedJobs": jobs}}}
    return kubernetes("ClusterTrainingRuntime", spec=spec)


def cluster(**changes: Any) -> Resource:
    """As pulumi-eks declares it."""
    sound = {
        "version": "1.35",
        "endpointPublicAccess": True,
        "publicAccessCidrs": ["203.0.113.0/24"],
        "encryptionConfigKeyArn": "arn:aws:kms:…",
        "enabledClusterLogTypes": [
            "api",
            "audit",
            "authenticator",
            "controllerManager",
            "scheduler",
        ],
        "authenticationMode": "API",
        "upgradePolicy": {"supportType": "STANDARD"},
        "deletionProtection": True,
    }
    given = {name: value for name, value in {**sound, **changes}.items() if value is not None}
    return resource("eks:index:Cluster", given)


def raw_cluster(**changes: Any) -> Resource:
    """As pulumi-aws declares it, which is what the engine shows of the other."""
    network = {"endpointPublicAccess": False, **changes.pop("vpcConfig", {})}
    sound: dict[str, Any] = {
        "version": "1.35",
        "vpcConfig": network,
        "encryptionConfig": {"provider": {"keyArn": "arn:aws:kms:…"}},
        "enabledClusterLogTypes": cluster().inputs["enabledClusterLogTypes"],
        "accessConfig": {"authenticationMode": "API"},
        "upgradePolicy": {"supportType": "STANDARD"},
        "deletionProtection": True,
    }
    return aws("eks/cluster:Cluster", **{**sound, **changes})


def launched(*kinds: str) -> list[dict[str, Any]]:
    return [{"resourceType": kind, "tags": TAGS} for kind in kinds]


def template(**changes: Any) -> Resource:
    sound: dict[str, Any] = {
        "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"encrypted": "true"}}],
        "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1},
        "tagSpecifications": launched("instance", "volume", "network-interface"),
    }
    return aws("ec2/launchTemplate:LaunchTemplate", **{**sound, **changes})


def node_class(**changes: Any) -> Resource:
    sound: dict[str, Any] = {
        "associatePublicIPAddress": False,
        "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"encrypted": True}}],
        "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 1},
    }
    return kubernetes("EC2NodeClass", namespace=None, spec={**sound, **changes})


def group(**changes: Any) -> Resource:
    sound: dict[str, Any] = {
        "releaseVersion": "1.35.6-20260728",
        "nodeRepairConfig": {"enabled": True},
    }
    return aws("eks/nodeGroup:NodeGroup", **{**sound, **changes})


def encrypted(bucket: Resource, algorithm: str = "aws:kms", **changes: Any) -> Resource:
    default = {"sseAlgorithm": algorithm, "kmsMasterKeyId": "arn:aws:kms:…"}
    rule = {"applyServerSideEncryptionByDefault": default, "bucketKeyEnabled": True, **changes}
    return belongs("ServerSideEncryptionConfiguration", bucket, rules=[rule])


def in_prod(resource_: Resource, *, protect: bool = False) -> Resource:
    return replace(resource_, urn=resource_.urn.replace(":dev:", ":prod:"), protect=protect)


BUCKET = aws("s3/bucket:Bucket", bucket="backups")
LOGS = replace(aws("s3/bucket:Bucket", bucket="backups-logs"), urn="urn:pulumi:dev::holdfast::logs")
LOGGING = replace(
    belongs("Logging", BUCKET, targetBucket="backups-logs"),
    dependencies=frozenset({BUCKET.urn, LOGS.urn}),
)
DISK = {"encrypted": True, "kmsKeyId": "arn:aws:kms:…"}
FILE_SYSTEM = aws("efs/fileSystem:FileSystem", **DISK)
LUSTRE = "fsx/lustreFileSystem:LustreFileSystem"
OPEN = {"fromPort": 22, "toPort": 22}
ALL_BLOCKED = {
    "blockPublicAcls": True,
    "blockPublicPolicy": True,
    "ignorePublicAcls": True,
    "restrictPublicBuckets": True,
}
SECURE = json.dumps({"Condition": {"Bool": {"aws:SecureTransport": "false"}}})
CREATES = {"apiGroups": ["cr.kanister.io"], "resources": ["actionsets"], "verbs": ["create"]}
CREATOR = kubernetes("Role", rules=[CREATES])
DELETER = kubernetes("Role", rules=[{"resources": ["pods"], "verbs": ["list", "delete"]}])


def guard(what: str) -> Resource:
    """An admission policy on one kind."""
    rules = {"matchConstraints": {"resourceRules": [{"resources": [what]}]}}
    return kubernetes("ValidatingAdmissionPolicy", namespace=None, spec=rules)


GUARD, POD_GUARD = guard("actionsets"), guard("pods")
BINDING = kubernetes(
    "ValidatingAdmissionPolicyBinding",
    namespace=None,
    spec={"policyName": "it", "validationActions": ["Deny"]},
)
TAGS = {"holdfast:project": "holdfast", "holdfast:stack": "dev"}
TAGGED_BY_PROVIDER = replace(BUCKET, provider={"defaultTags": json.dumps({"tags": TAGS})})


def budget(**selector: Any) -> Resource:
    return kubernetes("PodDisruptionBudget", spec={"selector": selector})


def release(**inputs: Any) -> Resource:
    return resource("kubernetes:helm.sh/v3:Release", {"chart": "kanister-operator", **inputs})


TRAINER = {"app.kubernetes.io/component": "trainer"}
ROOT = {"AWS": "arn:aws:iam::123456789012:root"}

"""Everything that is written down is encrypted with a key of the account's own."""

import json
from collections.abc import Iterator, Sequence

from policy.buckets import buckets, parts, receives_logs
from policy.clusters import cluster_value, is_cluster, node_template
from policy.model import (
    UNKNOWN,
    Config,
    Resource,
    at,
    is_true,
    items,
    rule,
    stack_rule,
    unset,
)


def _encrypted_with_a_key(resource: Resource, what: str) -> Iterator[str]:
    if not is_true(at(resource.inputs, "encrypted")):
        yield f"the {what} is not encrypted: set encrypted to true and kmsKeyId to a key of yours"
    elif unset(at(resource.inputs, "kmsKeyId")):
        yield f"the {what} uses AWS's key, which no one can withdraw: set kmsKeyId to one of yours"


@rule("ebs-volumes-are-encrypted", "Encrypt every EBS volume with a KMS key of the account's own.")
def ebs(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type == "aws:ebs/volume:Volume":
        yield from _encrypted_with_a_key(resource, "volume")


@rule(
    "node-disks-are-encrypted",
    "Encrypt every disk that a launch template or an EC2NodeClass gives to a node.",
)
def node_disks(resource: Resource, _: Config) -> Iterator[str]:
    template = node_template(resource)
    if template is None or template is UNKNOWN:
        return
    disks = at(template, "blockDeviceMappings")
    if unset(disks):
        yield "names no disk, so nodes get the image's own, unencrypted: add blockDeviceMappings"
    for disk in items(disks):
        if not unset(at(disk, "ebs")) and not is_true(at(disk, "ebs", "encrypted")):
            yield f"disk {at(disk, 'deviceName')} is not encrypted: set ebs.encrypted to true"


@rule("efs-is-encrypted", "Encrypt every EFS file system with a KMS key of the account's own.")
def efs(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type == "aws:efs/fileSystem:FileSystem":
        yield from _encrypted_with_a_key(resource, "file system")


@rule("fsx-is-encrypted", "Encrypt every FSx file system with a KMS key of the account's own.")
def fsx(resource: Resource, _: Config) -> Iterator[str]:
    of_fsx = resource.type.startswith("aws:fsx/") and resource.type.endswith("FileSystem")
    if of_fsx and unset(at(resource.inputs, "kmsKeyId")):
        yield "uses AWS's key, which no one can withdraw: set kmsKeyId to one of yours"


@rule(
    "eks-secrets-are-encrypted",
    "Encrypt the cluster's Secrets in etcd with a KMS key of the account's own.",
)
def eks(resource: Resource, _: Config) -> Iterator[str]:
    if is_cluster(resource) and unset(cluster_value(resource, "key")):
        yield "has no key for Secrets: set the encryption key to one of yours"


@rule(
    "log-groups-are-encrypted-and-expire",
    "Encrypt every log group with a KMS key, and say for how long logs are kept.",
)
def log_groups(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type != "aws:cloudwatch/logGroup:LogGroup":
        return
    if unset(at(resource.inputs, "kmsKeyId")):
        yield "has no key of yours: set kmsKeyId"
    if at(resource.inputs, "retentionInDays") in (None, 0):
        yield "keeps its logs for ever: set retentionInDays"


@rule("keys-rotate", "Rotate every KMS key each year.")
def keys(resource: Resource, _: Config) -> Iterator[str]:
    if resource.type == "aws:kms/key:Key" and not is_true(at(resource.inputs, "enableKeyRotation")):
        yield "is the same key for ever: set enableKeyRotation to true"


@rule(
    "storage-classes-encrypt",
    "Encrypt what a StorageClass of the EBS driver makes: its default is not to.",
)
def storage_classes(resource: Resource, _: Config) -> Iterator[str]:
    of_ebs = at(resource.inputs, "provisioner") == "ebs.csi.aws.com"
    encrypted = at(resource.inputs, "parameters", "encrypted")
    if resource.kind == "StorageClass" and of_ebs and not is_true(encrypted):
        yield 'makes unencrypted disks: set parameters.encrypted to "true"'


@stack_rule(
    "buckets-are-encrypted",
    "Encrypt every bucket with a KMS key of the account's own, through a bucket key. A bucket that "
    "receives S3's access logs may use S3's keys: logs cannot be delivered otherwise.",
)
def bucket_encryption(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    for bucket in buckets(resources):
        found = parts(resources, "ServerSideEncryptionConfiguration", bucket)
        if not found:
            yield bucket, "has no encryption of its own: add a ServerSideEncryptionConfiguration"
        for configuration in found:
            for settings in items(at(configuration.inputs, "rules")):
                default = at(settings, "applyServerSideEncryptionByDefault")
                algorithm = at(default, "sseAlgorithm")
                if algorithm == "AES256" and receives_logs(resources, bucket):
                    continue
                if algorithm is not UNKNOWN and algorithm not in ("aws:kms", "aws:kms:dsse"):
                    yield bucket, f"is encrypted by {algorithm or 'nothing'}: use aws:kms"
                elif unset(at(default, "kmsMasterKeyId")):
                    yield bucket, "uses AWS's key: set kmsMasterKeyId to a key of yours"
                elif not is_true(at(settings, "bucketKeyEnabled")):
                    yield bucket, "asks KMS for each object: set bucketKeyEnabled to true"


@stack_rule(
    "buckets-refuse-plain-http",
    "Refuse every request to a bucket that does not come over TLS, by a policy of the bucket.",
)
def bucket_tls(resources: Sequence[Resource], _: Config) -> Iterator[tuple[Resource, str]]:
    for bucket in buckets(resources):
        policies = [at(p.inputs, "policy") for p in parts(resources, "Policy", bucket)]
        if UNKNOWN in policies:
            continue
        text = " ".join(p if isinstance(p, str) else json.dumps(p) for p in policies)
        if "aws:SecureTransport" not in text:
            yield bucket, "answers plain HTTP: deny requests with aws:SecureTransport false"

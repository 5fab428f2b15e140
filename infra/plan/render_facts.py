"""What is worth saying of each layer in a picture: a few lines, each read from the graph."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from infra.manifests import Manifest
from infra.plan.graph import Graph, Resource
from infra.settings.node_groups import EFA, GPU

Lines = list[str]
"""Those that begin with a space belong to the one above."""


def cluster_of(graph: Graph) -> str | None:
    """The name of the cluster that the stack makes."""
    return next((c.inputs["name"] for c in graph.find("eks:index:Cluster")), None)


def _network(graph: Graph) -> Iterator[str]:
    for vpc in graph.find("aws:ec2/vpc:Vpc"):
        yield f"VPC {vpc.inputs['cidrBlock']}"
    subnets = graph.find("aws:ec2/subnet:Subnet")
    zones = sorted({subnet.inputs["availabilityZoneId"] for subnet in subnets})
    yield ", ".join(zones)
    private = sum("private" in subnet.name for subnet in subnets)
    yield f"{private} private and {len(subnets) - private} public subnets"
    yield _count(len(graph.find("aws:ec2/natGateway:NatGateway")), "NAT gateway")
    kinds = Counter(
        endpoint.inputs["vpcEndpointType"]
        for endpoint in graph.find("aws:ec2/vpcEndpoint:VpcEndpoint")
    )
    interface = f", {kinds['Interface']} interface endpoints" if kinds["Interface"] else ""
    yield f"S3 endpoint{interface}"
    rules = sum("SecurityGroup" in r.type and "Rule" in r.type for r in graph.resources)
    groups = len(graph.find("aws:ec2/securityGroup:SecurityGroup"))
    yield f"{groups} security groups, {rules} rules, flow log"


def _cluster(graph: Graph) -> Iterator[str]:
    for cluster in graph.find("eks:index:Cluster"):
        inputs = cluster.inputs
        yield f"EKS {inputs['name']}, Kubernetes {inputs['version']}"
        ranges = inputs.get("publicAccessCidrs")
        yield f"API: private, and from {', '.join(ranges)}" if ranges else "API: private only"
        if inputs.get("encryptionConfigKeyArn"):
            yield "secrets encrypted with its own key"
        yield f"{_count(len(inputs['enabledClusterLogTypes']), 'log type')} kept"
        entries = len(graph.find("aws:eks/accessEntry:AccessEntry"))
        yield _count(entries, "access entry", "access entries")
        yield f"deletion protection {'on' if inputs['deletionProtection'] else 'off'}"


def _nodes(graph: Graph) -> Iterator[str]:
    for group in graph.find("aws:eks/nodeGroup:NodeGroup"):
        scaling = group.inputs["scalingConfig"]
        (template,) = graph.find("aws:ec2/launchTemplate:LaunchTemplate", group.name)
        kinds = group.inputs.get("instanceTypes") or [template.inputs["instanceType"]]
        yield f"{group.name.removesuffix('-nodes')}: {' or '.join(kinds)}"
        labels = group.inputs["labels"]
        extras = [
            *(["GPU"] if f"{GPU}.present" in labels else []),
            *(["EFA"] if f"{EFA}.present" in labels else []),
            *(["placement group"] if template.inputs.get("placement") else []),
        ]
        yield (
            f"   {_count(scaling['desiredSize'], 'node')}, "
            f"{scaling['minSize']} to {scaling['maxSize']}"
        )
        if extras:
            yield f"   {', '.join(extras)}"
        if taints := group.inputs.get("taints"):
            yield f"   taint {taints[0]['key']}"
        if group.inputs.get("nodeRepairConfig", {}).get("enabled"):
            yield "   repaired by itself"
    for pool in graph.find("NodePool"):
        spec = pool.inputs["spec"]
        wanted = {r["key"]: r["values"] for r in spec["template"]["spec"]["requirements"]}
        yield f"{pool.object_name}: {' or '.join(wanted['node.kubernetes.io/instance-type'])}"
        yield f"   elastic, 0 to {spec['limits']['nodes']} nodes, by Karpenter"


def _addons(graph: Graph) -> Iterator[str]:
    for addon in graph.find("aws:eks/addon:Addon"):
        version = addon.inputs["addonVersion"].partition("-")[0]
        yield f"{addon.inputs['addonName']} {version}"
    for release in graph.find("kubernetes:helm.sh/v3:Release"):
        if not _of_layer("kanister", release):
            yield f"{release.inputs['chart']} {release.inputs['version']}"


def _volumes(graph: Graph) -> Iterator[str]:
    for disk in graph.find("aws:ebs/volume:Volume"):
        yield f"EBS {disk.inputs['tags']['Name']}, {disk.inputs['type']}, {disk.inputs['size']} GiB"
        yield from _kept(disk)
    for system in graph.find("aws:efs/fileSystem:FileSystem"):
        yield f"EFS {system.inputs['tags']['Name']}, in every zone"
        yield from _kept(system)
    for system in graph.find("aws:fsx/lustreFileSystem:LustreFileSystem"):
        inputs = system.inputs
        yield f"FSx for Lustre {inputs['tags']['Name']}, {inputs['storageCapacity']} GiB"
        yield f"{inputs['perUnitStorageThroughput']} MB/s for each TiB"
        if days := inputs.get("automaticBackupRetentionDays"):
            yield f"daily backups, {days} days"
        yield from _kept(system)


def _registry(graph: Graph) -> Iterator[str]:
    repositories = graph.find("aws:ecr/repository:Repository")
    for repository in repositories:
        yield f"ECR {repository.inputs['name']}"
    if all(r.inputs["imageTagMutability"] == "IMMUTABLE" for r in repositories):
        yield "tags never move"


def _keys(graph: Graph) -> Iterator[str]:
    keys = graph.find("aws:kms/key:Key")
    for key in keys:
        purpose = key.name.rpartition("-")[2]
        what = key.inputs["description"].rpartition(": ")[2]
        yield f"{purpose}: {what}" if purpose != what else purpose
    if all(key.inputs["enableKeyRotation"] for key in keys):
        yield "KMS, rotated every year"


def _backups(graph: Graph) -> Iterator[str]:
    for bucket in graph.find("aws:s3/bucket:Bucket", "store-bucket"):
        yield bucket.inputs["bucket"]
        yield from _kept(bucket)
    for lock in graph.find("aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration"):
        rule = lock.inputs["rule"]["defaultRetention"]
        yield f"Object Lock: {rule['mode'].lower()}, {rule['days']} days"
    for rule in (
        rule
        for lifecycle in graph.find(
            "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration", "store-lifecycle"
        )
        for rule in lifecycle.inputs["rules"]
    ):
        if days := rule.get("noncurrentVersionExpiration", {}).get("noncurrentDays"):
            yield f"versions kept for {days} days"
    yield from _identities(graph, "store")


def _artifacts(graph: Graph) -> Iterator[str]:
    for bucket in graph.find("aws:s3/bucket:Bucket", "artifacts-bucket"):
        yield bucket.inputs["bucket"]
        yield from _kept(bucket)
    yield from _identities(graph, "pipeline")


def _identities(graph: Graph, layer: str) -> Iterator[str]:
    """Which pods of a layer have a role."""
    found = graph.find("aws:eks/podIdentityAssociation:PodIdentityAssociation")
    names = {each.name.rpartition("-")[2] for each in found if _of_layer(layer, each)}
    if names:
        yield f"pods' roles: {', '.join(sorted(names))}"


def _storage(graph: Graph) -> Iterator[str]:
    volumes = [r.inputs for r in graph.find("PersistentVolume")]
    for volume in sorted(volumes, key=_claimed):
        spec = volume["spec"]
        claim = spec["claimRef"]
        if claim["namespace"] == "holdfast-system":
            continue
        size, policy = spec["capacity"]["storage"], spec["persistentVolumeReclaimPolicy"]
        yield f"PV {volume['metadata']['name']}, {size}, {policy}"
        yield f"   PVC {claim['namespace']}/{claim['name']}"
    for kind in ("StorageClass", "VolumeSnapshotClass"):
        for each in graph.find(kind):
            yield f"{kind} {each.object_name}"


def _claimed(volume: Manifest) -> tuple[str, str]:
    reference = volume["spec"]["claimRef"]
    return reference["namespace"], reference["name"]


def _training(graph: Graph) -> Iterator[str]:
    for job in graph.find("kubernetes:batch/v1:Job"):
        if not _of_layer("training", job):
            continue
        spec = job.inputs["spec"]
        pod = spec["template"]["spec"]
        limits = pod["containers"][-1]["resources"]["limits"]
        nodes = spec.get("completions", 1)
        gpus = limits.get(GPU)
        each = f"{gpus} GPUs" if gpus else f"{limits['cpu']} CPU"
        yield f"Job {job.object_name}: {_count(nodes, 'node')} × {each}"
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"   {container['name']}: {' '.join(container.get('command', []))}"
    for deployment in graph.find("kubernetes:apps/v1:Deployment"):
        if _of_layer("training", deployment):
            yield f"Deployment {deployment.object_name}"
    for service in graph.find("kubernetes:core/v1:Service"):
        if _of_layer("training", service):
            yield f"Service {service.object_name}"
    yield from _environment(graph, "training")


def _application(graph: Graph) -> Iterator[str]:
    yield from _servers(graph, "application")
    yield from _environment(graph, "application")


def _pipeline(graph: Graph) -> Iterator[str]:
    yield from _servers(graph, "pipeline")
    for job in graph.find("kubernetes:batch/v1:CronJob"):
        if _of_layer("pipeline", job):
            yield f"CronJob {job.object_name}: {job.inputs['spec']['schedule']} UTC"
    yield from _network_policies(graph, "pipeline")
    yield from _environment(graph, "pipeline")


def _network_policies(graph: Graph, layer: str) -> Iterator[str]:
    for policy in graph.find("kubernetes:networking.k8s.io/v1:NetworkPolicy"):
        if _of_layer(layer, policy):
            yield f"NetworkPolicy {policy.object_name}"


def _environment(graph: Graph, layer: str) -> Iterator[str]:
    for kind in ("ConfigMap", "ServiceAccount"):
        for each in graph.find(f"kubernetes:core/v1:{kind}"):
            if _of_layer(layer, each):
                yield f"{kind} {each.object_name}"


def _servers(graph: Graph, layer: str) -> Iterator[str]:
    """Deployments and StatefulSets of a layer with what runs in each, and their Services."""
    for kind in ("StatefulSet", "Deployment"):
        for server in graph.find(f"kubernetes:apps/v1:{kind}"):
            if not _of_layer(layer, server):
                continue
            yield f"{kind} {server.object_name}"
            pod = server.inputs["spec"]["template"]["spec"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                command = " ".join(container.get("command", [_short(container["image"])]))
                yield f"   {container['name']}: {command}"
    for service in graph.find("kubernetes:core/v1:Service"):
        if _of_layer(layer, service):
            yield f"Service {service.object_name}"


def _short(image: str) -> str:
    """An image without its registry and digest."""
    return image.partition("@")[0].rpartition("/")[2]


def _kanister(graph: Graph) -> Iterator[str]:
    for release in graph.find("kubernetes:helm.sh/v3:Release"):
        if _of_layer("kanister", release):
            yield f"{release.inputs['chart']} {release.inputs['version']}"
    for blueprint in graph.find("Blueprint"):
        yield f"Blueprint {blueprint.object_name}"
        yield f"   {', '.join(sorted(blueprint.inputs['actions']))}"
    for policy in graph.find("ValidatingAdmissionPolicy"):
        yield f"ValidatingAdmissionPolicy {policy.object_name}"
    for role in graph.find("RoleBinding", "holdfast-kanister"):
        yield f"Role in namespace {role.inputs['metadata']['namespace']}"


def _protection(graph: Graph) -> Iterator[str]:
    for schedule in graph.find("CronJob"):
        spec = schedule.inputs["spec"]
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        yield f"CronJob {schedule.object_name}: {spec['schedule']} UTC"
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        for command in dict.fromkeys(" ".join(each["command"]) for each in containers):
            yield f"   {command}"
    for runtime in graph.find("ClusterTrainingRuntime"):
        yield f"ClusterTrainingRuntime {runtime.object_name}"
    yield from _network_policies(graph, "protection")
    for layer in ("protection", "assets"):
        yield from _environment(graph, layer)


FACTS: dict[str, Callable[[Graph], Iterator[str]]] = {
    "network": _network,
    "cluster": _cluster,
    "nodes": _nodes,
    "addons": _addons,
    "volumes": _volumes,
    "registry": _registry,
    "keys": _keys,
    "backups": _backups,
    "artifacts": _artifacts,
    "storage": _storage,
    "training": _training,
    "application": _application,
    "pipeline": _pipeline,
    "kanister": _kanister,
    "protection": _protection,
}


def _of_layer(layer: str, resource: Resource) -> bool:
    """Whether the resource is part of a component of that layer."""
    return f"holdfast:{layer}:" in (resource.options.parent or "")


def _kept(resource: Resource) -> Iterator[str]:
    yield "destroy keeps it" if resource.options.retain_on_delete else "destroy removes it"


def _count(number: int, thing: str, things: str | None = None) -> str:
    return f"{number or 'no'} {thing if number == 1 else things or thing + 's'}"


def provider_list(resource: Resource, key: str) -> list[Any]:
    """A list among a provider's inputs: they are all text."""
    return json.loads(resource.inputs.get(key, "[]"))

"""What a stack costs a month, of the few things that decide it, before any traffic or request.

On demand, in US dollars, in us-east-1. Other regions, savings plans, spot and reservations differ:
an order of magnitude, not a bill. What has no price here is named, not guessed. Sources, all made
from AWS' price lists, and how old they are:

- instances (infra/settings/instances.py): karpenter-provider-aws, ``zz_generated.pricing_aws.go``,
  generated on PRICES_OF;
- control plane, NAT gateway, endpoint, gp3 and io2: the expected costs in Infracost's tests
  (``internal/providers/terraform/aws/testdata/{eks_cluster,nat_gateway,vpc_endpoint,ebs_volume}``,
  of 2024 and 2025, unchanged in August 2026);
- public addresses: AWS' announcement of the charge, from February 2024;
- FSx for Lustre: aws-samples/sample-fsx-viewer, ``pricing_data.json`` of 2026-02-17.

To look one up: ``aws pricing get-products --region us-east-1 --service-code AmazonEC2 --filters
Type=TERM_MATCH,Field=instanceType,Value=p5.48xlarge …``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.plan.graph import Graph
from infra.settings.instances import INSTANCES

REGION, PRICES_OF = "us-east-1", "2026-07-20"
HOURS = 730
CONTROL_PLANE = 0.10
#: The gateway and its public address.
NAT_GATEWAY = 0.045 + 0.005
#: For each zone that an endpoint has an address in.
ENDPOINT = 0.01
#: gp3 for each GiB and month, and for what is above its base speed: operations, MiB a second.
DISK, DISK_IOPS, DISK_THROUGHPUT = 0.08, 0.005, 0.04
BASE_IOPS, BASE_THROUGHPUT = 3000, 125
#: io2 for each GiB and month, and for each operation a second up to where it gets cheaper.
IO2, IO2_IOPS, IO2_IOPS_UNTIL = 0.125, 0.065, 32_000
#: FSx for Lustre for each GiB and month, by MB/s for each TiB.
LUSTRE = {125: 0.145, 250: 0.21, 500: 0.34, 1000: 0.60}
PURCHASE = {"SPOT": "spot", "CAPACITY_BLOCK": "Capacity Block"}


@dataclass(frozen=True)
class Cost:
    """One line of the estimate."""

    what: str
    dollars: float | None
    """A month, at least; None where this file has no price."""
    most: float | None = None
    """A month, at most, where that is something else."""


def monthly(graph: Graph) -> list[Cost]:
    """Each thing that costs by the hour or by its size."""
    return [
        *_control_plane(graph),
        *_nodes(graph),
        *_elastic_nodes(graph),
        *_network(graph),
        *_storage(graph),
    ]


def total(costs: list[Cost]) -> float:
    """Dollars a month of all that has a price."""
    return round(sum(cost.dollars for cost in costs if cost.dollars is not None), 2)


def total_at_most(costs: list[Cost]) -> float:
    """Dollars a month of all that has a price, when everything elastic runs all the time."""
    highest = (cost.dollars if cost.most is None else cost.most for cost in costs)
    return round(sum(dollars for dollars in highest if dollars is not None), 2)


def _control_plane(graph: Graph) -> Iterator[Cost]:
    for cluster in graph.find("eks:index:Cluster"):
        yield Cost(f"control plane {cluster.inputs['name']}", CONTROL_PLANE * HOURS)


def _nodes(graph: Graph) -> Iterator[Cost]:
    for group in graph.find("aws:eks/nodeGroup:NodeGroup"):
        (template,) = graph.find("aws:ec2/launchTemplate:LaunchTemplate", group.name)
        (disk,) = template.inputs["blockDeviceMappings"]
        kind = (group.inputs.get("instanceTypes") or [template.inputs.get("instanceType")])[0]
        count = group.inputs["scalingConfig"]["desiredSize"]
        bought = PURCHASE.get(group.inputs["capacityType"])
        facts = INSTANCES.get(kind)
        yield Cost(
            f"{group.name}: {count} × {kind}" + (f" ({bought}, at the full price)" * bool(bought)),
            count * (facts.dollars * HOURS + _root_disk(disk["ebs"]))
            if facts is not None and facts.dollars is not None
            else None,
        )


def _elastic_nodes(graph: Graph) -> Iterator[Cost]:
    """From none to as many as a NodePool may make, all the month, of its most expensive type."""
    classes = {c.object_name: c.inputs["spec"] for c in graph.find("EC2NodeClass")}
    for pool in graph.find("NodePool"):
        spec = pool.inputs["spec"]
        wanted = {r["key"]: r["values"] for r in spec["template"]["spec"]["requirements"]}
        kinds = wanted["node.kubernetes.io/instance-type"]
        facts = [INSTANCES[kind] for kind in kinds if kind in INSTANCES]
        prices = [each.dollars for each in facts if each.dollars is not None]
        count = int(spec["limits"]["nodes"])
        spot = " (spot, at the full price)" * ("spot" in wanted["karpenter.sh/capacity-type"])
        (disk,) = classes[pool.object_name]["blockDeviceMappings"]
        size = int(disk["ebs"]["volumeSize"].removesuffix("Gi"))
        each = _root_disk({**disk["ebs"], "volumeSize": size})
        known = len(prices) == len(kinds)
        yield Cost(
            f"{pool.object_name}: 0 to {count} × {' or '.join(kinds)}{spot}",
            0.0 if known else None,
            count * (max(prices) * HOURS + each) if known else None,
        )


def _network(graph: Graph) -> Iterator[Cost]:
    if gateways := len(graph.find("aws:ec2/natGateway:NatGateway")):
        yield Cost(_count(gateways, "NAT gateway"), gateways * NAT_GATEWAY * HOURS)
    endpoints = [e.inputs for e in graph.find("aws:ec2/vpcEndpoint:VpcEndpoint")]
    closed = [len(e["subnetIds"]) for e in endpoints if e["vpcEndpointType"] == "Interface"]
    if closed:
        what = f"{_count(len(closed), 'interface endpoint')} in {_count(max(closed), 'zone')}"
        yield Cost(what, sum(closed) * ENDPOINT * HOURS)


def _storage(graph: Graph) -> Iterator[Cost]:
    for disk in graph.find("aws:ebs/volume:Volume"):
        size, kind, iops = (disk.inputs[key] for key in ("size", "type", "iops"))
        fast = f" with {iops} IOPS" * (iops > BASE_IOPS)
        yield Cost(f"{disk.name}: {size} GiB {kind}{fast}", _disk(disk.inputs))
    for system in graph.find("aws:fsx/lustreFileSystem:LustreFileSystem"):
        size = system.inputs["storageCapacity"]
        price = LUSTRE.get(system.inputs["perUnitStorageThroughput"])
        yield Cost(f"{system.name}: {size} GiB", price * size if price is not None else None)
        if metadata := system.inputs.get("metadataConfiguration"):
            yield Cost(f"{system.name}: {metadata['iops']} metadata IOPS", None)
    for system in graph.find("aws:efs/fileSystem:FileSystem"):
        yield Cost(f"{system.name}: by what it holds, reads and writes", None)
    for bucket in graph.find("aws:s3/bucket:Bucket"):
        yield Cost(f"{bucket.name}: by what it holds", None)


def _root_disk(ebs: dict[str, Any]) -> float:
    """A node's gp3 disk, a month."""
    speed = {"iops": BASE_IOPS, "throughput": BASE_THROUGHPUT}
    wanted = {key: ebs.get(key, least) for key, least in speed.items()}
    return _gp3(ebs["volumeSize"], wanted["iops"], wanted["throughput"])


def _gp3(size: int, iops: int, throughput: int) -> float:
    faster = DISK_IOPS * (iops - BASE_IOPS) + DISK_THROUGHPUT * (throughput - BASE_THROUGHPUT)
    return DISK * size + faster


def _disk(inputs: dict[str, Any]) -> float | None:
    size, iops = inputs["size"], inputs["iops"]
    if inputs["type"] == "io2":
        return IO2 * size + IO2_IOPS * iops if iops <= IO2_IOPS_UNTIL else None
    return _gp3(size, iops, inputs["throughput"])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"

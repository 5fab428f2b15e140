"""What a stack costs a month, of the few things that decide it, before any traffic or request.

On demand, in US dollars in us-east-1, as of 2026-07-20 (instances: infra/settings/instances.py).
Other regions, savings plans, spot and reservations differ: an order of magnitude, not a bill.
"""

from collections.abc import Callable, Iterator

from infra.graph import Graph, Resource
from infra.settings.instances import INSTANCES

HOURS = 730
CONTROL_PLANE = 0.10
NAT_GATEWAY = 0.045
ENDPOINT = 0.01
#: For each GiB and month.
DISK = {"gp3": 0.08, "io2": 0.125}
LUSTRE = {125: 0.145, 250: 0.21, 500: 0.34, 1000: 0.60}


def monthly(graph: Graph) -> list[tuple[str, float]]:
    """Each thing that costs by the hour or by its size, and its dollars a month."""
    return [
        (what, round(dollars, 2))
        for resource in graph.resources
        if (price := _PRICES.get(resource.type)) is not None
        for what, dollars in price(resource, graph)
    ]


def _control_plane(resource: Resource, graph: Graph) -> Iterator[tuple[str, float]]:
    yield "control plane", CONTROL_PLANE * HOURS


def _nat(resource: Resource, graph: Graph) -> Iterator[tuple[str, float]]:
    yield f"NAT gateway {resource.name}", NAT_GATEWAY * HOURS


def _endpoint(resource: Resource, graph: Graph) -> Iterator[tuple[str, float]]:
    zones = len(resource.inputs.get("subnetIds", []))
    if zones:
        yield f"{resource.name} in {zones} zones", ENDPOINT * HOURS * zones


def _nodes(resource: Resource, graph: Graph) -> Iterator[tuple[str, float]]:
    (template,) = graph.find("aws:ec2/launchTemplate:LaunchTemplate", resource.name)
    kind = (resource.inputs.get("instanceTypes") or [template.inputs["instanceType"]])[0]
    (disk,) = template.inputs["blockDeviceMappings"]
    count = resource.inputs["scalingConfig"]["desiredSize"]
    each = INSTANCES[kind].dollars * HOURS + DISK["gp3"] * disk["ebs"]["volumeSize"]
    yield f"{resource.name}: {count} × {kind}", count * each


def _disk(resource: Resource, graph: Graph) -> Iterator[tuple[str, float]]:
    yield (
        f"{resource.name}: {resource.inputs['size']} GiB {resource.inputs['type']}",
        DISK[resource.inputs["type"]] * resource.inputs["size"],
    )


def _lustre(resource: Resource, graph: Graph) -> Iterator[tuple[str, float]]:
    size = resource.inputs["storageCapacity"]
    price = LUSTRE[resource.inputs["perUnitStorageThroughput"]]
    yield f"{resource.name}: {size} GiB", price * size


_PRICES: dict[str, Callable[[Resource, Graph], Iterator[tuple[str, float]]]] = {
    "eks:index:Cluster": _control_plane,
    "aws:ec2/natGateway:NatGateway": _nat,
    "aws:ec2/vpcEndpoint:VpcEndpoint": _endpoint,
    "aws:eks/nodeGroup:NodeGroup": _nodes,
    "aws:ebs/volume:Volume": _disk,
    "aws:fsx/lustreFileSystem:LustreFileSystem": _lustre,
}

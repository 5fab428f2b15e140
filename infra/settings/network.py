"""The VPC of an EKS stack: one address range, three zones, everything else computed."""

import re
from ipaddress import IPv4Network, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from infra.settings.fields import Model

#: What private networks may use (RFC 1918).
PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))

#: Zones in which EKS puts no control plane. Zone IDs, since names differ from account to account.
NO_CONTROL_PLANE = ("use1-az3", "usw1-az2", "cac1-az3")

#: The first three zones of a region that can run a control plane.
ZONES = {
    "us-east-1": ("use1-az1", "use1-az2", "use1-az4"),
    "us-east-2": ("use2-az1", "use2-az2", "use2-az3"),
    "us-west-2": ("usw2-az1", "usw2-az2", "usw2-az3"),
    "ca-central-1": ("cac1-az1", "cac1-az2", "cac1-az4"),
    "eu-central-1": ("euc1-az1", "euc1-az2", "euc1-az3"),
    "eu-west-1": ("euw1-az1", "euw1-az2", "euw1-az3"),
    "eu-west-2": ("euw2-az1", "euw2-az2", "euw2-az3"),
    "eu-west-3": ("euw3-az1", "euw3-az2", "euw3-az3"),
    "eu-north-1": ("eun1-az1", "eun1-az2", "eun1-az3"),
    "ap-northeast-1": ("apne1-az1", "apne1-az2", "apne1-az4"),
    "ap-southeast-1": ("apse1-az1", "apse1-az2", "apse1-az3"),
    "ap-southeast-2": ("apse2-az1", "apse2-az2", "apse2-az3"),
    "ap-south-1": ("aps1-az1", "aps1-az2", "aps1-az3"),
}

#: Regions that offer an account two zones for a control plane.
TWO_ZONES = ("us-west-1",)

ZONE_COUNT = 3
SMALLEST_PREFIX, LARGEST_PREFIX = 21, 16

_ZONE = re.compile(r"[a-z]{2,4}[a-z]{0,2}\d-az\d{1,2}")


def private_range(value: str, shortest: int, longest: int, example: str) -> str:
    """Check an address range: RFC 1918, written as a network, of a size from/to these prefixes."""
    remedy = f"write one such as {example}"
    try:
        network = ip_network(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an address range in CIDR notation: {remedy}") from None
    if network.version != 4 or not any(network.subnet_of(block) for block in PRIVATE):
        raise ValueError(
            f"{value} is not private (RFC 1918: 10/8, 172.16/12, 192.168/16): {remedy}"
        )
    if not shortest <= network.prefixlen <= longest:
        size = "small" if network.prefixlen > longest else "large"
        raise ValueError(
            f"{value} is too {size}: use a prefix from /{shortest} to /{longest}, such as {example}"
        )
    return value


def _vpc_range(value: str) -> str:
    return private_range(value, LARGEST_PREFIX, SMALLEST_PREFIX, "10.0.0.0/16")


def _existing_range(value: str) -> str:
    return private_range(value, 8, 24, "10.0.0.0/16")


def zone_id(value: str) -> str:
    """Check the form of a zone ID such as use1-az1, and that EKS can use the zone."""
    if _ZONE.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a zone ID: write one such as use1-az1 (zone names like us-east-1a "
            "mean another place in each account)"
        )
    if value in NO_CONTROL_PLANE:
        raise ValueError(f"EKS runs no control plane in {value}: use another zone of the region")
    return value


ZoneId = Annotated[str, AfterValidator(zone_id)]
SubnetId = Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")]


class ExistingNetwork(Model):
    """A VPC and private subnets that are there. Each `preview` looks them up and stops where one is
    in another VPC or zone, or lacks the tag ``kubernetes.io/role/internal-elb: 1``."""

    vpc_id: str = Field(pattern=r"^vpc-[0-9a-f]{8,17}$")
    """The VPC, with DNS support and DNS hostnames, which EKS needs."""
    cidr: Annotated[str, AfterValidator(_existing_range)]
    """Its address range, which the range of Services must not overlap."""
    subnets: dict[ZoneId, SubnetId]
    """The subnets of nodes and pods by zone ID, in three zones."""
    internet: bool = True
    """Whether they have a way to the internet. Without one the VPC needs an endpoint for each
    service of AWS that nodes use: ``interface_endpoints`` makes them, else they are looked up."""

    @field_validator("subnets")
    @classmethod
    def _three_subnets(cls, subnets: dict[str, str]) -> dict[str, str]:
        if len(subnets) != ZONE_COUNT or len(set(subnets.values())) != ZONE_COUNT:
            raise ValueError(
                f"{', '.join(subnets.values()) or 'nothing'} are not three subnets in three zones: "
                "give one for each of three zone IDs"
            )
        return subnets


class NetworkSettings(Model):
    """The VPC: private subnets for nodes, public ones for load balancers and NAT only."""

    existing: ExistingNetwork | None = None
    """A VPC and subnets that are there, instead of new ones. Routes, NAT and flow logs are then
    theirs, and the settings for these cannot be given."""
    cidr: Annotated[str, AfterValidator(_vpc_range)] = "10.0.0.0/16"
    """The address range, from /16 to /21. Three private subnets take a quarter each (pods have
    addresses of the VPC), three public ones share the last."""
    zones: tuple[ZoneId, ...] | None = None
    """Three zone IDs, such as ``[use1-az1, use1-az2, use1-az4]``. Default: the region's first three
    in which EKS runs control planes."""
    nat: Literal["single", "per-zone", "none"] = "single"
    """How nodes reach the internet. ``single``: one gateway, cheap, gone with its zone;
    ``per-zone``: one in each; ``none``: not at all, which needs ``interface_endpoints``."""
    interface_endpoints: bool = False
    """Private addresses for the AWS services that nodes use. Each costs by the hour and zone."""
    flow_log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 180, 365] = 30
    """Days that the VPC's flow logs are kept."""

    @field_validator("zones")
    @classmethod
    def _three_zones(cls, zones: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if zones is not None and len(set(zones)) != ZONE_COUNT:
            raise ValueError(
                f"{', '.join(zones) or 'none'} are not three different zones: give three zone IDs"
            )
        return zones

    @field_validator("interface_endpoints")
    @classmethod
    def _some_way_out(cls, endpoints: bool, info: ValidationInfo) -> bool:
        if not endpoints and info.data.get("nat") == "none":
            raise ValueError(
                "false with nat none leaves nodes no way to pull an image or join: "
                "set it to true, or nat to single"
            )
        return endpoints

    @model_validator(mode="after")
    def _one_network(self) -> "NetworkSettings":
        for name in ("cidr", "zones", "nat", "flow_log_days"):
            if self.existing is not None and name in self.model_fields_set:
                raise ValueError(
                    f"{name} with existing would not be used, as that network has its own: "
                    "remove it"
                )
        return self

    @property
    def network(self) -> IPv4Network:
        """The address range."""
        return IPv4Network(self.existing.cidr if self.existing else self.cidr)

    @property
    def closed(self) -> bool:
        """Whether nodes have no way to the internet."""
        return not self.existing.internet if self.existing else self.nat == "none"

    def private_ranges(self) -> list[IPv4Network]:
        """One quarter of the range for each zone's nodes and pods."""
        return list(self.network.subnets(prefixlen_diff=2))[:ZONE_COUNT]

    def public_ranges(self) -> list[IPv4Network]:
        """A quarter of the last quarter for each zone's NAT gateway and load balancers."""
        last = list(self.network.subnets(prefixlen_diff=2))[ZONE_COUNT]
        return list(last.subnets(prefixlen_diff=2))[:ZONE_COUNT]


_DIRECTIONS = {
    "northeast": "ne",
    "northwest": "nw",
    "southeast": "se",
    "southwest": "sw",
    "north": "n",
    "south": "s",
    "east": "e",
    "west": "w",
    "central": "c",
}


def zone_prefix(region: str) -> str:
    """How the zone IDs of a region begin: ``use1-az`` for us-east-1."""
    *place, direction, number = region.split("-")
    middle = "".join(part if position == 0 else part[0] for position, part in enumerate(place))
    return f"{middle}{_DIRECTIONS.get(direction, direction)}{number}-az"

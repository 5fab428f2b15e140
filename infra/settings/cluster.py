"""The control plane of an EKS stack: its version, who reaches it and who may do what in it."""

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from infra import versions
from infra.settings.fields import Model, Name
from infra.settings.network import PRIVATE, private_range

#: A range that is wider than this cannot be one organisation's own network.
WIDEST_PUBLIC = 16

_PRINCIPAL = re.compile(r"arn:aws[\w-]*:iam::\d{12}:(role|user)/[\w+=,.@/-]+")
_ADDON_VERSION = re.compile(r"v\d+\.\d+\.\d+-eksbuild\.\d+")


def _public_range(value: str) -> str:
    try:
        network = ip_network(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is not an address range: write one such as 203.0.113.0/24"
        ) from None
    if network.version != 4:
        raise ValueError(f"{value} is IPv6, which the endpoint does not filter by: use IPv4 ranges")
    if network.prefixlen < WIDEST_PUBLIC:
        raise ValueError(
            f"{value} opens the API server to {network.num_addresses:,} addresses: "
            f"use your network's own range, /{WIDEST_PUBLIC} or narrower, or runner: in-vpc"
        )
    if any(network.subnet_of(block) for block in PRIVATE):
        raise ValueError(
            f"{value} is private, which never reaches the public endpoint: "
            "use the address that your network has on the internet"
        )
    return value


def _principal(value: str) -> str:
    if ":assumed-role/" in value:
        raise ValueError(
            f"{value} is a session of a role: use the role's own ARN, "
            "arn:aws:iam::<account>:role/<name>"
        )
    if _PRINCIPAL.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not an IAM role or user: use arn:aws:iam::<account>:role/<name>"
        )
    return value


def _service_range(value: str) -> str:
    return private_range(value, 12, 24, "172.20.0.0/16")


class ApiAccess(Model):
    """From where the API server can be reached: exactly one of both."""

    public_cidrs: tuple[Annotated[str, AfterValidator(_public_range)], ...] | None = Field(
        default=None, min_length=1
    )
    """A public endpoint too, for these address ranges only."""
    runner: Literal["in-vpc"] | None = None
    """No public endpoint: `pulumi` and `kubectl` run inside the VPC or in a network with a route
    to it."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "ApiAccess":
        if (self.public_cidrs is None) == (self.runner is None):
            raise ValueError(
                "give exactly one of public_cidrs (your network's addresses) and runner: in-vpc"
            )
        return self


class AccessEntry(Model):
    """One IAM role or user and what it may do in the cluster."""

    principal: Annotated[str, AfterValidator(_principal)]
    """The role's or user's ARN."""
    policy: Literal["cluster-admin", "admin", "edit", "view", "admin-view"] = "view"
    """Its rights; ``cluster-admin`` is everything, ``admin-view`` reads everything, Secrets too."""
    namespaces: tuple[Name, ...] = ()
    """Only in these namespaces. Default: everywhere."""

    @model_validator(mode="after")
    def _admin_is_everywhere(self) -> "AccessEntry":
        if self.namespaces and self.policy == "cluster-admin":
            raise ValueError(
                "policy cluster-admin cannot be limited to namespaces: use admin, or no namespaces"
            )
        return self

    @property
    def policy_name(self) -> str:
        """EKS' own name of the policy."""
        words = "".join(word.capitalize() for word in self.policy.split("-"))
        return f"AmazonEKS{words}Policy"


class ClusterSettings(Model):
    """The control plane."""

    name: Name
    """The cluster's name in the account and region."""
    version: Literal["1.35", "1.36"] = versions.KUBERNETES
    """Kubernetes' minor version, of the control plane and, unless said otherwise, of the nodes.
    Add-ons and node images are pinned to it: infra/versions.py. docs/upgrade.md says how to go on
    to the next one."""
    node_version: Literal["1.35", "1.36"] | None = None
    """The nodes' minor version while an upgrade goes on: the same or the one before. Default:
    ``version``. With the one before, an upgrade of the control plane stops no training."""
    api_access: ApiAccess
    """From where the API server can be reached."""
    access: dict[Name, AccessEntry] = Field(default_factory=dict)
    """IAM roles and users by a name of your choice. Who runs the first `up` is admin anyway: an
    entry for them here is refused by EKS."""
    service_cidr: Annotated[str, AfterValidator(_service_range)] = "172.20.0.0/16"
    """Addresses of Services; must not overlap the VPC. Fixed once the cluster exists."""
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 180, 365] = 90
    """Days that the control plane's logs are kept."""
    deletion_protection: bool = True
    """EKS refuses to delete the cluster: set it to false, `up`, and only then destroy."""
    addons: dict[str, str] = Field(default_factory=dict)
    """Other versions of EKS add-ons than infra/versions.py pins, by the add-on's name."""

    @field_validator("access")
    @classmethod
    def _one_entry_for_each(cls, access: dict[str, AccessEntry]) -> dict[str, AccessEntry]:
        names: dict[str, str] = {}
        for name, entry in access.items():
            if entry.principal in names:
                raise ValueError(
                    f"{name} and {names[entry.principal]} are both {entry.principal}, of which EKS "
                    "has one entry: give it one policy, or another role"
                )
            names[entry.principal] = name
        return access

    @field_validator("addons")
    @classmethod
    def _addons_are_ours(cls, addons: dict[str, str]) -> dict[str, str]:
        for name, version in addons.items():
            if name not in versions.ADDONS:
                raise ValueError(
                    f"{name!r} is not an add-on of this stack: "
                    f"use one of {', '.join(versions.ADDONS)}"
                )
            if _ADDON_VERSION.fullmatch(version) is None:
                raise ValueError(
                    f"{name} {version!r} is not an add-on version: write one such as "
                    f"{versions.MINORS[versions.KUBERNETES].addons[name]}"
                )
        return addons

    @model_validator(mode="after")
    def _nodes_follow_the_control_plane(self) -> "ClusterSettings":
        minors = list(versions.MINORS)
        behind = minors.index(self.version) - minors.index(self.nodes)
        if behind not in (0, 1):
            raise ValueError(
                f"node_version {self.nodes} with version {self.version}: nodes have the control "
                f"plane's version or the one before: use {self.version}, or leave it out"
            )
        return self

    @property
    def nodes(self) -> str:
        """The nodes' minor version."""
        return self.node_version or self.version

    @property
    def restarts_all_containers(self) -> bool:
        """Whether a pod can restart all its containers in place; nodes are never the newer part."""
        minors = list(versions.MINORS)
        return minors.index(self.nodes) >= minors.index(versions.RESTARTS_ALL_CONTAINERS)

    @property
    def node_release(self) -> str:
        """The release of the nodes' images."""
        return versions.MINORS[self.nodes].node_release

    def addon_version(self, name: str) -> str:
        """The version of one add-on."""
        return self.addons.get(name, versions.MINORS[self.version].addons[name])

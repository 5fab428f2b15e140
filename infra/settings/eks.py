"""The settings of a stack that makes its own cluster: EKS, its network, nodes and stores."""

import re
from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from infra import versions
from infra.settings.bucket import Registry
from infra.settings.cluster import ClusterSettings
from infra.settings.fields import Model, Region, TagKey, TagValue, partition_of
from infra.settings.fit import ADDRESSES_OF_A_NODE, fits, most_nodes, why_not
from infra.settings.foreign import without_a_reader
from infra.settings.network import TWO_ZONES, ZONES, NetworkSettings, zone_prefix
from infra.settings.network_volumes import EbsVolume, EfsVolume, FsxLustreVolume, IscsiVolume
from infra.settings.node_groups import SPOT_NOTICE, NodeGroups, TrainingGroup, TrainingNodes
from infra.settings.stack import EksAccess, Images, Settings
from infra.settings.volumes import HostPathVolume, Volume

#: Seconds until EKS deletes the pods of a node group that is deleted or replaced; for an update of
#: it there are 900 (EKS user guide, "Delete a managed node group" in its edition of 2021, and
#: "Understand each phase of node updates").
SHORTEST_DRAIN = 300


def _account(value: str) -> str:
    if re.fullmatch(r"\d{12}", value) is None:
        raise ValueError(f"{value!r} is not an AWS account: write its 12 digits in quotes")
    return value


class AwsSettings(Model):
    """Which account and region. Credentials come from your environment, never from here."""

    account: Annotated[str, AfterValidator(_account)]
    """The account's 12 digits. With credentials of another account, nothing is done at all."""
    region: Region
    """The region, such as ``us-east-1``."""
    tags: dict[TagKey, TagValue] = Field(default_factory=dict, max_length=40)
    """Tags on everything in AWS, beside those that Holdfast sets: also on what node groups, the EBS
    driver and the network plugin make, which AWS' own default tags do not reach."""

    role_path: str | None = Field(default=None, pattern=r"^/([\x21-\x2e\x30-\x7e]+/)+$")
    """The path of every IAM role that the stack makes, such as ``/teams/ml/``. Default: ``/``.
    To be chosen once: another path makes every role anew, and with its role the cluster."""
    permissions_boundary: str | None = Field(
        default=None, pattern=r"^arn:aws:iam::(\d{12}|aws):policy/[\w+=,.@/-]+$"
    )
    """ARN of the policy that limits every role of the stack, whatever else allows."""

    @property
    def partition(self) -> str:
        """The first part of each ARN."""
        return partition_of(self.region)

    def cluster_arn(self, name: str) -> str:
        """The ARN of a cluster, known before the cluster is made."""
        return f"arn:{self.partition}:eks:{self.region}:{self.account}:cluster/{name}"


class EksStack(Settings):
    """A cluster of the stack's own in AWS, and everything around it."""

    target: Literal["eks"]
    """``eks``: the stack makes the cluster, its network, nodes, file systems and bucket."""
    images: Images = Images()
    """Container images, by digest. Without them, everything but the pods that need them is made:
    the first of a roll-out's two steps, which makes the registry to push them to."""
    aws: AwsSettings
    """Account and region."""
    network: NetworkSettings = NetworkSettings()
    """The VPC."""
    cluster: ClusterSettings
    """The control plane, and who reaches it."""
    node_groups: NodeGroups
    """The nodes."""
    registry: Registry = Registry()
    """Repositories for the stack's images."""
    data_stores: Literal["protected", "deletable"] = "protected"
    """``protected``: destroy refuses to touch bucket, file systems, disks and images, and keeps
    them. ``deletable``: it removes checkpoints and backups with everything else."""

    discard: tuple[str, ...] = ()
    """Volumes, by name, and the backup bucket, that `up` may take out of the stack: the explicit
    word for another zone, volume or bucket name. What goes with them: docs/changes.md."""

    @property
    def region(self) -> str:
        return self.aws.region

    @property
    def deploys(self) -> bool:
        return "images" in self.model_fields_set

    @property
    def access(self) -> EksAccess:
        return EksAccess(self.cluster.name, self.aws.region)

    @property
    def zones(self) -> tuple[str, ...]:
        """The three zone IDs of the network."""
        if self.network.existing is not None:
            return tuple(self.network.existing.subnets)
        return self.network.zones or ZONES[self.aws.region]

    @property
    def cluster_arn(self) -> str:
        """What the Kubernetes provider knows the cluster by."""
        return self.aws.cluster_arn(self.cluster.name)

    @property
    def keeps_data(self) -> bool:
        """Whether destroy leaves the data stores alone."""
        return self.data_stores == "protected"

    def training_groups(self) -> dict[str, TrainingGroup]:
        return self.node_groups.training

    def nodes_of(self, name: str) -> TrainingNodes:
        group = self.group_of(name)
        return TrainingNodes(group, self.node_groups.training[group])

    def group_of(self, name: str) -> str:
        """The training group that hosts a workload: the named one, else the first that can."""
        workload = self.trainings[name]
        if workload.node_group is not None:
            return workload.node_group
        return next(g for g, group in self.node_groups.training.items() if fits(workload, group))

    @model_validator(mode="after")
    def _images_never_change(self) -> "EksStack":
        own = {**self.trainings, **self.applications}
        used = {f"workloads.{name}.image": w.image for name, w in own.items()}
        if self.deploys:
            used |= {"images.tools": self.images.tools, "images.training": self.images.training}
        used |= self.pipeline.images()
        for where, image in used.items():
            if image is not None and "@sha256:" not in image:
                raise ValueError(
                    f"{where}: {image} is a tag, which can move: use name@sha256:<64 hex digits>, "
                    "as the registry prints it after a push"
                )
        return self

    @model_validator(mode="after")
    def _zones_are_the_regions(self) -> "EksStack":
        region, prefix = self.aws.region, zone_prefix(self.aws.region)
        if region in TWO_ZONES:
            raise ValueError(
                f"aws.region: {region} has two zones for an account, and a stack needs three: "
                "use another region, such as us-west-2"
            )
        if not self.network.existing and self.network.zones is None and region not in ZONES:
            raise ValueError(
                f"network.zones: the zones of {region} are not known here: give three zone IDs "
                f"such as {prefix}1"
            )
        for zone in self.zones:
            if not zone.startswith(prefix):
                raise ValueError(
                    f"network.zones: {zone} is not in {region}: use zone IDs such as {prefix}1"
                )
        for name, group in self.node_groups.training.items():
            if group.zone is not None:
                self._must_be_in_the_network(f"node_groups.training.{name}.zone", group.zone)
        for name, workload in self.trainings.items():
            if isinstance(workload.volume, EbsVolume | FsxLustreVolume):
                self._must_be_in_the_network(f"workloads.{name}.volume.zone", workload.volume.zone)
        return self

    def _must_follow_its_pod(self, where: str, volume: Volume) -> None:
        if isinstance(volume, HostPathVolume | IscsiVolume):
            raise ValueError(
                f"{where}: {volume.kind} cannot follow a pod to another node on EKS: use ebs or efs"
            )
        if isinstance(volume, EbsVolume | FsxLustreVolume):
            self._must_be_in_the_network(f"{where}.zone", volume.zone)

    def _must_be_in_the_network(self, where: str, zone: str) -> None:
        if zone not in self.zones:
            raise ValueError(
                f"{where}: {zone} has no subnet: use one of {', '.join(self.zones)}, "
                "or add it to network.zones"
            )

    @model_validator(mode="after")
    def _ranges_are_apart(self) -> "EksStack":
        services = IPv4Network(self.cluster.service_cidr)
        if services.overlaps(self.network.network):
            usual = ("172.20.0.0/16", "10.100.0.0/16")
            free = [u for u in usual if not IPv4Network(u).overlaps(self.network.network)]
            raise ValueError(
                f"cluster.service_cidr: {services} overlaps network.cidr {self.network.network}: "
                f"use another, such as {free[0]}"
            )
        return self

    @model_validator(mode="after")
    def _subnets_hold_the_nodes(self) -> "EksStack":
        """Each node takes addresses of its subnet for itself and for its pods."""
        if self.network.existing is not None:
            return self  # whose subnets may be of any size, and hold others too
        subnets = dict(zip(self.zones, self.network.private_ranges(), strict=True))
        for zone, nodes in most_nodes(self.node_groups, self.zones).items():
            # EC2 keeps the first four addresses of a subnet and the last one.
            room = (subnets[zone].num_addresses - 5) // ADDRESSES_OF_A_NODE
            if nodes > room:
                raise ValueError(
                    f"node_groups: the groups may have {nodes} nodes in {zone}, and its subnet "
                    f"{subnets[zone]} has addresses for {room} ({ADDRESSES_OF_A_NODE} each): "
                    "lower scaling.max or elastic.max_nodes, or use a wider network.cidr"
                )
        return self

    @model_validator(mode="after")
    def _nodes_can_hold_the_workloads(self) -> "EksStack":
        groups = self.node_groups.training
        for name, workload in self.trainings.items():
            wanted = workload.node_group
            if wanted is not None and wanted not in groups:
                raise ValueError(
                    f"workloads.{name}.node_group: there is no training group {wanted}: "
                    f"use one of {', '.join(groups)}"
                )
            looked_at = {wanted: groups[wanted]} if wanted is not None else groups
            reasons = {g: why_not(workload, group) for g, group in looked_at.items()}
            if all(reasons.values()):
                text = "; ".join(f"{group} {reason}" for group, reason in reasons.items())
                raise ValueError(
                    f"workloads.{name}: no training group can hold it ({text}): "
                    "use larger nodes, or ask for less"
                )
        return self

    @model_validator(mode="after")
    def _nodes_restart_all_containers(self) -> "EksStack":
        """EKS sets no feature gates: what it has is what is on by default."""
        for name, workload in self.trainings.items():
            if workload.restart == "all-containers" and not self.cluster.restarts_all_containers:
                raise ValueError(
                    f"workloads.{name}.restart: all-containers needs Kubernetes "
                    f"{versions.RESTARTS_ALL_CONTAINERS}, and the nodes have "
                    f"{self.cluster.nodes}: use container, or upgrade the cluster and its nodes"
                )
        return self

    @model_validator(mode="after")
    def _volumes_fit_the_nodes(self) -> "EksStack":
        for name, workload in self.trainings.items():
            group_name = self.group_of(name)
            group = self.node_groups.training[group_name]
            volume = workload.volume
            match volume:
                case HostPathVolume():
                    raise ValueError(
                        f"workloads.{name}.volume: host-path dies with its node, and node groups "
                        "replace nodes: use ebs, efs or fsx-lustre"
                    )
                case IscsiVolume():
                    raise ValueError(
                        f"workloads.{name}.volume: EKS node images have no iSCSI initiator: "
                        "use ebs, or existing-claim with a CSI driver"
                    )
                case EbsVolume() if group.zone != volume.zone:
                    there = group.zone or "all zones"
                    raise ValueError(
                        f"workloads.{name}.volume: ebs is mounted in its own zone only, and group "
                        f"{group_name} is in {there}: set node_groups.training.{group_name}.zone "
                        f"to {volume.zone}"
                    )
                case FsxLustreVolume() if group.zone not in (None, volume.zone):
                    raise ValueError(
                        f"workloads.{name}.volume: {volume.zone} is not the zone of group "
                        f"{group_name}, {group.zone}: put both into one"
                    )
        return self

    @model_validator(mode="after")
    def _spot_leaves_time_to_save(self) -> "EksStack":
        for name, workload in self.trainings.items():
            group = self.node_groups.training[self.group_of(name)]
            needed = workload.save_seconds + workload.upload_seconds
            if group.on_spot and needed > SPOT_NOTICE:
                raise ValueError(
                    f"workloads.{name}: save_seconds + upload_seconds are {needed}, and spot nodes "
                    f"go {SPOT_NOTICE} s after EC2 says so: save faster, or use on-demand"
                )
        return self

    @model_validator(mode="after")
    def _servers_survive_their_nodes(self) -> "EksStack":
        """They run on the system nodes, which lie in all zones."""
        for name, application in self.applications.items():
            self._must_follow_its_pod(f"workloads.{name}.volume", application.volume)
        if self.pipeline.tracking is not None:
            for where, volume in self.pipeline.tracking.volumes():
                self._must_follow_its_pod(f"pipeline.tracking.{where}", volume)
        for which in ("tracking", "existing"):
            server = getattr(self.pipeline, which)
            url = server.artifacts.url if server is not None else None
            if url is not None and url.split("/")[2] == self.backup_store.bucket:
                raise ValueError(
                    f"pipeline.{which}.artifacts: {url} is in the backup store's bucket: use "
                    "another, so that a backup is not lost with its original"
                )
        return self

    @model_validator(mode="after")
    def _drains_leave_time_to_save(self) -> "EksStack":
        for name, workload in self.trainings.items():
            needed = workload.save_seconds + workload.upload_seconds
            if needed > SHORTEST_DRAIN and not workload.accept_forced_drain:
                raise ValueError(
                    f"workloads.{name}: save_seconds + upload_seconds are {needed}, and EKS "
                    f"deletes pods about {SHORTEST_DRAIN} s after it began to drain a node group "
                    "that is deleted or replaced: save faster, or say accept_forced_drain: true"
                )
        return self

    @model_validator(mode="after")
    def _store_is_a_bucket(self) -> "EksStack":
        store = self.backup_store
        if store.volume is not None:
            raise ValueError(
                "backup_store.volume: a volume of the cluster's own goes with the cluster: "
                "use create, or existing"
            )
        bucket = store.bucket
        for name, workload in self.workloads.items():
            volume = workload.volume
            if isinstance(volume, FsxLustreVolume) and volume.export is not None:
                exported = volume.export.removeprefix("s3://").partition("/")[0]
                if exported == bucket:
                    raise ValueError(
                        f"workloads.{name}.volume.export: {bucket} is the backup store: "
                        "use another bucket, so that no export writes over backups"
                    )
        return self

    @model_validator(mode="after")
    def _foreign_pods_reach_the_store(self) -> "EksStack":
        existing = self.backup_store.existing
        if existing is None or not (existing.endpoint or existing.credentials_secret):
            for problem in without_a_reader(self.foreign, {**self.trainings, **self.applications}):
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _the_copy_is_elsewhere(self) -> "EksStack":
        created = self.backup_store.create
        replica = created.replica if created is not None else None
        if created is None or replica is None:
            return self
        if replica.account in (None, self.aws.account) and replica.region == self.aws.region:
            raise ValueError(
                f"backup_store.create.replica: {replica.region} is the store's own region: use "
                "another region, or another account"
            )
        if replica.account == self.aws.account:
            raise ValueError(
                f"backup_store.create.replica.account: {replica.account} is the stack's own: leave "
                "account and key_arn out, and the stack makes the bucket"
            )
        if replica.name == created.name:
            raise ValueError(
                f"backup_store.create.replica.name: {replica.name} is the store's own bucket: "
                "bucket names are unique in all of AWS: use another"
            )
        return self

    @model_validator(mode="after")
    def _store_is_within_reach(self) -> "EksStack":
        store = self.backup_store.existing
        if store is None or store.endpoint is not None:
            return self
        here, there = self.aws.region, store.region or self.aws.region
        if partition_of(there) != self.aws.partition:
            raise ValueError(
                f"backup_store.existing.region: {there} has accounts of its own, apart from "
                f"those of {here}: use a bucket in a region such as {here}"
            )
        if there != here and self.network.closed:
            raise ValueError(
                f"backup_store.existing.region: without a NAT gateway nodes reach buckets in "
                f"{here} only, not in {there}: set network.nat to single, or use a bucket there"
            )
        if store.key_arn is not None and store.key_arn.split(":")[3] != there:
            raise ValueError(
                f"backup_store.existing.key_arn: {store.key_arn} is not in the bucket's region "
                f"{there}, where S3 uses it: name the bucket's own key, or correct region"
            )
        return self

    def file_systems(self) -> list[EfsVolume | FsxLustreVolume | EbsVolume]:
        """The volumes that this stack makes in AWS."""
        kinds = EfsVolume | FsxLustreVolume | EbsVolume
        return [v for _, _, v in self.volumes() if isinstance(v, kinds)]

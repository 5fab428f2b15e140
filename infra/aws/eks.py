"""The AWS half of a stack as a table of contents: keys, network, cluster, nodes, stores."""

from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from infra import versions
from infra.aws import security_groups
from infra.aws.addons import Addons, after_nodes
from infra.aws.classes import Classes
from infra.aws.cluster import Cluster
from infra.aws.keys import Keys
from infra.aws.network import Endpoints, FoundNetwork, Network, NodeNetwork, services
from infra.aws.nodes.devices import Devices
from infra.aws.nodes.karpenter import ElasticNodes, KarpenterAccess
from infra.aws.nodes.node_groups import ManagedNodes, NodeRole
from infra.aws.security_groups import SecurityGroups
from infra.aws.storage.artifacts import ArtifactStore, Rights, place_of
from infra.aws.storage.assets_access import AssetsAccess
from infra.aws.storage.backup_store import Bucket, StoreAccess
from infra.aws.storage.file_systems import Disk, ElasticFileSystem, Lustre
from infra.aws.storage.pipeline_access import PipelineAccess
from infra.aws.storage.registry import Registry
from infra.aws.storage.replica import StoreCopy
from infra.aws.storage.store_policy import Place
from infra.manifests import Manifest
from infra.names import Project
from infra.options import after
from infra.platform import CONFIG_MAPS_IN_PLACE, Platform
from infra.protected import protected_server
from infra.settings import ExistingStore, NfsVolume, Volume
from infra.settings.eks import EksStack
from infra.settings.network import PRIVATE
from infra.settings.network_volumes import EbsVolume, EfsVolume, FsxLustreVolume

Options = pulumi.ResourceOptions


def build(settings: EksStack, project: Project) -> Platform:
    """Declare everything in AWS."""
    tags = _tags(settings, project)
    cloud = aws.Provider(
        "aws",
        region=settings.aws.region,
        # With another account's credentials the provider stops before it does anything.
        allowed_account_ids=[settings.aws.account],
        default_tags={"tags": tags},
    )
    in_aws = Options(providers={"aws": cloud})
    store = settings.backup_store
    keys = Keys(
        "keys",
        settings.aws,
        settings.cluster.name,
        in_aws,
        with_store=store.create is not None,
        keep_data=settings.keeps_data,
    )
    network = _network(settings, keys, in_aws)
    groups = SecurityGroups(
        "traffic", network.vpc_id, _flows(settings), in_aws, outward=_outward(settings)
    )
    registry = Registry("registry", settings.registry, keys.data, in_aws, keep=settings.keeps_data)
    kinds: set[str] = {volume.kind for _, _, volume in settings.volumes()}
    before: list[pulumi.Resource] = [network, groups]
    if settings.network.interface_endpoints:
        before.append(
            Endpoints("endpoints", network, settings.aws.region, groups["endpoints"], kinds, in_aws)
        )
    cluster = Cluster(
        "cluster",
        settings.cluster,
        settings.aws,
        network,
        groups["control-plane"],
        keys.cluster,
        after(in_aws, *before),
    )
    on_cluster = after(in_aws, cluster)
    first = Addons(
        "base-addons",
        list(versions.ADDONS_BEFORE_NODES),
        settings.cluster,
        settings.aws,
        keys.data,
        tags,
        on_cluster,
    )
    role = NodeRole("nodes", settings.cluster.name, settings.aws, after(on_cluster, first))
    nodes = _nodes(settings, role, network, groups, keys, tags, after(on_cluster, first))
    rest = Addons(
        "addons",
        after_nodes(kinds),
        settings.cluster,
        settings.aws,
        keys.data,
        tags,
        after(on_cluster, *nodes),
    )
    sources = {
        volume.claim: source
        for _, _, volume in settings.volumes()
        if (source := _source(volume, settings, network, groups, keys, in_aws)) is not None
    }
    place, made = _store(settings, project, keys, tags, in_aws)
    ready: list[pulumi.Resource] = [cluster, first, *nodes, rest, *made]
    if place is not None and settings.deploys:
        ready += [
            StoreAccess(
                name,
                workload,
                settings.cluster.name,
                settings.aws,
                place,
                after(in_aws, cluster, first),
            )
            for name, workload in settings.workloads.items()
        ]
        ready.append(
            AssetsAccess(
                "assets",
                settings.namespaces(),
                list(settings.workloads),
                settings.cluster.name,
                settings.aws,
                place,
                after(in_aws, cluster, first),
            )
        )
    artifacts = _artifacts(settings, keys, after(in_aws, cluster, first))
    ready += [artifacts] if artifacts is not None else []
    protected = protected_server(settings.pipeline)
    if protected is not None and settings.deploys:
        ready.append(
            PipelineAccess(
                "pipeline",
                protected.namespace,
                settings.cluster.name,
                settings.aws,
                place,
                _rights_on_artifacts(settings, artifacts),
                after(in_aws, cluster, first),
            )
        )
    elastic = settings.node_groups.elastic()
    karpenter: KarpenterAccess | None = None
    if elastic:
        karpenter = KarpenterAccess(
            "karpenter",
            elastic,
            settings.cluster.name,
            settings.aws,
            role,
            keys.data,
            after(in_aws, cluster, first),
        )
        ready.append(karpenter)
    provider = k8s.Provider(
        "kubernetes",
        kubeconfig=cluster.kubeconfig,
        # Known from the start, and the same whatever the kubeconfig's text: a changed token
        # command or certificate then never plans to replace everything in the cluster.
        cluster_identifier=settings.cluster_arn,
        enable_config_map_mutable=CONFIG_MAPS_IN_PLACE,
        opts=Options(depends_on=ready),
    )
    exports: dict[str, pulumi.Input[Any]] = {
        "kubeconfig": cluster.kubeconfig,
        "cluster_name": cluster.name,
        "cluster_arn": settings.cluster_arn,
        "region": settings.aws.region,
        "vpc_id": network.vpc_id,
        "private_subnet_ids": network.private_ids,
        "node_security_group_id": groups["nodes"].id,
        "repositories": registry.urls,
    }
    if place is not None:
        exports["backup_bucket"] = pulumi.Output.from_input(place).apply(lambda p: p.bucket)
    in_cluster = Options(providers={"kubernetes": provider})
    if any(group.gpus or group.efa for group in settings.node_groups.training.values()):
        Devices("devices", settings.node_groups.training, in_cluster)
    if karpenter is not None:
        ElasticNodes(
            "elastic",
            elastic,
            settings.cluster,
            karpenter,
            network,
            groups.groups,
            keys.data,
            tags,
            in_cluster,
            replicas=min(2, settings.node_groups.system.scaling.min),
            isolated=settings.network.closed,
            longest_grace=settings.longest_grace_of_pods(),
        )
    Classes("classes", keys.data.arn, in_cluster)
    return Platform(provider, sources, exports)


def _network(settings: EksStack, keys: Keys, opts: Options) -> NodeNetwork:
    kinds: set[str] = {volume.kind for _, _, volume in settings.volumes()}
    if settings.network.existing is not None:
        looked_up = settings.network.closed and not settings.network.interface_endpoints
        return FoundNetwork(
            "network",
            settings.network.existing,
            services(settings.aws.region, kinds) if looked_up else [],
            opts,
        )
    return Network(
        "network",
        settings.network,
        settings.zones,
        settings.cluster.name,
        settings.aws,
        keys.cluster,
        opts,
    )


def _tags(settings: EksStack, project: Project) -> dict[str, str]:
    ours = {
        "holdfast:project": project.project,
        "holdfast:stack": project.stack,
        "holdfast:cluster": settings.cluster.name,
    }
    return {**settings.aws.tags, **ours}


def _flows(settings: EksStack) -> list[security_groups.Flow]:
    """The traffic that this stack's settings need."""
    kinds = {volume.kind for _, _, volume in settings.volumes()}
    flows = [*security_groups.CONTROL_PLANE, *security_groups.NODES]
    if settings.network.interface_endpoints:
        flows += security_groups.ENDPOINTS
    if any(group.efa for group in settings.node_groups.training.values()):
        flows += security_groups.EFA
    if "efs" in kinds:
        flows += security_groups.EFS
    if "fsx-lustre" in kinds:
        flows += security_groups.LUSTRE
    return flows


def _outward(settings: EksStack) -> list[tuple[int, str, str]]:
    """What nodes reach outside: HTTPS, and private networks' NFS servers where one is used."""
    outward = [security_groups.OUTWARD]
    if any(isinstance(volume, NfsVolume) for _, _, volume in settings.volumes()):
        outward += [(2049, str(block), "NFS servers") for block in PRIVATE]
    return outward


def _nodes(
    settings: EksStack,
    role: NodeRole,
    network: NodeNetwork,
    groups: SecurityGroups,
    keys: Keys,
    tags: dict[str, str],
    opts: Options,
) -> list[pulumi.Resource]:
    made: list[pulumi.Resource] = [role]
    members = {"system": settings.node_groups.system, **settings.node_groups.fixed()}
    for name, group in members.items():
        cards = [groups["nodes"]]
        if name in settings.node_groups.training and settings.node_groups.training[name].efa:
            cards.append(groups["efa"])
        made.append(
            ManagedNodes(name, group, settings.cluster, role, network, cards, keys.data, tags, opts)
        )
    return made


def _source(
    volume: Volume,
    settings: EksStack,
    network: NodeNetwork,
    groups: SecurityGroups,
    keys: Keys,
    opts: Options,
) -> Manifest | None:
    keep = settings.keeps_data
    match volume:
        case EbsVolume():
            return Disk(volume.name, volume, network, keys.data, opts, keep=keep).source
        case EfsVolume():
            return ElasticFileSystem(
                volume.name,
                volume,
                settings.run_as,
                network,
                groups["efs"],
                keys.data,
                opts,
                keep=keep,
            ).source
        case FsxLustreVolume():
            # FSx tries port 988 through the group's rules while it creates the file system.
            return Lustre(
                volume.name,
                volume,
                network,
                groups["lustre"],
                keys.data,
                after(opts, groups),
                keep=keep,
            ).source
    return None


def _artifacts(settings: EksStack, keys: Keys, opts: Options) -> ArtifactStore | None:
    """Where the experiment tracking keeps files in S3; None where it needs nothing of AWS."""
    tracking = settings.pipeline.tracking
    if tracking is None or tracking.artifacts.volume is not None:
        return None
    if not _decided_by_iam(tracking.artifacts.existing):
        return None
    return ArtifactStore(
        "artifacts",
        tracking,
        settings.cluster.name,
        settings.aws,
        keys.data,
        opts,
        keep=settings.keeps_data,
    )


def _decided_by_iam(bucket: ExistingStore | None) -> bool:
    """Whether the pods' identity reaches a bucket; one that the stack makes, it does."""
    return bucket is None or not (bucket.endpoint or bucket.credentials_secret)


def _rights_on_artifacts(
    settings: EksStack, made: ArtifactStore | None
) -> pulumi.Input[Rights] | None:
    """What backups and restores need where the artifacts are; None: IAM does not decide."""
    if made is not None:
        return made.rights
    server = settings.pipeline.existing
    bucket = server.artifacts.bucket if server is not None else None
    if bucket is None or not _decided_by_iam(bucket):
        return None
    return Rights(place_of(bucket, settings.aws), shared=True)


def _store(
    settings: EksStack, project: Project, keys: Keys, tags: dict[str, str], opts: Options
) -> tuple[pulumi.Input[Place] | None, list[pulumi.Resource]]:
    """Where the backups are, None where the bucket is not one that IAM decides about; and what the
    stack makes there."""
    store, cloud = settings.backup_store, settings.aws
    prefix = store.prefix or project.owner
    if store.create is not None and keys.store is not None:
        bucket = Bucket(
            "store", store.create, cloud, prefix, keys.store, opts, keep=settings.keeps_data
        )
        place = pulumi.Output.all(bucket.name, keys.store.arn).apply(
            lambda known: Place(cloud.partition, cloud.region, known[0], prefix, known[1])
        )
        if store.create.replica is not None:
            StoreCopy(
                "store-copy",
                store.create,
                store.create.replica,
                settings.cluster.name,
                cloud,
                prefix,
                bucket,
                keys.store,
                tags,
                opts,
                keep=settings.keeps_data,
            )
        return place, [bucket]
    existing = store.existing
    if existing is None or existing.endpoint or existing.credentials_secret:
        return None, []
    bucket_name, _, path = existing.url.removeprefix("s3://").partition("/")
    whole = "/".join(part for part in (path, prefix) if part)
    region = existing.region or cloud.region
    return Place(cloud.partition, region, bucket_name, whole, existing.key_arn), []

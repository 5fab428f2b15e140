"""The stack as a table of contents: settings in, outputs out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pulumi

from infra.kubernetes.application import Server
from infra.kubernetes.assets import Publisher, Sweep
from infra.kubernetes.environment import (
    pipeline_environment,
    publisher_environment,
    store_environment,
    workload_environment,
)
from infra.kubernetes.foreign import ClosedTasks, Foreign
from infra.kubernetes.kanister import (
    Guarded,
    Kanister,
    KanisterAccess,
    guarded,
    guarded_pipeline,
)
from infra.kubernetes.kubectl import Kubectl
from infra.kubernetes.pipeline import PipelineConfiguration
from infra.kubernetes.placement import task_placement
from infra.kubernetes.pods import PodSettings
from infra.kubernetes.preflight import check
from infra.kubernetes.protection import Protection
from infra.kubernetes.storage import ClaimedVolume, PreparedDirectory, SystemNamespace
from infra.kubernetes.tracking import TrackingServer
from infra.kubernetes.training import Training, WorkloadNamespace
from infra.names import PIPELINE, TRACKING_CLIENT, Project, backup_account, volume_name
from infra.options import after
from infra.outputs import Outputs
from infra.platform import Platform, on_kubernetes
from infra.protected import ProtectedServer, protected_server
from infra.settings import (
    Application,
    EksStack,
    ForeignPods,
    FsxLustreVolume,
    HostPathVolume,
    KubernetesStack,
    Settings,
    Workload,
)

Options = pulumi.ResourceOptions


def build(settings: Settings) -> Outputs:
    """Ask the cluster whether the stack may become this, then declare every resource of it."""
    cluster = Kubectl(settings.access)
    if settings.deploys:
        check(settings, cluster)
    return declare(settings, cluster)


def declare(settings: Settings, cluster: Kubectl | None = None) -> Outputs:
    """Declare every resource of the stack; asks nothing of the cluster."""
    cluster = cluster or Kubectl(settings.access)
    project = Project(pulumi.get_project(), pulumi.get_stack())
    platform = _platform(settings, project)
    if not settings.deploys:
        return Outputs(platform=platform.exports)
    stack = Options(providers={"kubernetes": platform.provider})
    pods = PodSettings(settings.images, settings.run_as, settings.backup_store)
    store = store_environment(settings.backup_store, settings.region, project)

    accounts = _accounts(settings)
    kanister = Kanister(
        "kanister",
        settings.kanister,
        pods,
        task_placement(
            settings.trainings.values(),
            settings.training_groups().values(),
            foreign=bool(settings.foreign),
        ),
        accounts,
        stack,
        tracking=protected_server(settings.pipeline),
    )
    directories = _prepared_directories(settings, platform, cluster, stack)
    prepared = after(stack, *directories)
    volumes = {
        name: ClaimedVolume(
            f"{name}-volume",
            workload.volume,
            workload.namespace,
            cluster,
            prepared,
            source=platform.sources.get(workload.volume.claim),
            grace_seconds=getattr(workload, "termination_grace_seconds", 0),
        )
        for name, workload in settings.workloads.items()
    }
    stores = {
        namespace: _store_volume(settings, namespace, cluster, prepared)
        for namespace in settings.namespaces()
    }
    homes = {
        namespace: _in_namespace(
            namespace,
            settings,
            [
                *stores[namespace],
                *(v for n, v in volumes.items() if settings.workloads[n].namespace == namespace),
            ],
            stack,
        )
        for namespace in settings.namespaces()
    }
    trainings: dict[str, Training] = {}
    servers: dict[str, Server] = {}
    foreign: dict[str, Foreign] = {}
    protections: dict[str, Protection] = {}
    publishers, sweep = _assets(settings, pods, store, stores, homes)
    pipeline = _pipeline(settings, platform, cluster, homes, prepared)
    tracking = pipeline.server if pipeline is not None else None
    for namespace, here in homes.items():
        access = KanisterAccess(
            f"{namespace}-kanister",
            namespace,
            settings.kanister.namespace,
            [what for account, what in accounts.items() if account.startswith(f"{namespace}.")],
            here,
        )
        store_objects = [each for volume in stores[namespace] for each in volume.objects]
        for name, workload in settings.workloads.items():
            if workload.namespace != namespace:
                continue
            ready = after(here, volumes[name], *stores[namespace], *_client(tracking, namespace))
            environment = workload_environment(name, workload, store, settings.kanister.namespace)
            claims = [*volumes[name].objects, *store_objects]
            if isinstance(workload, ForeignPods):
                foreign[name] = Foreign(name, workload, pods, environment, ready)
                ready = after(ready, foreign[name])
            elif isinstance(workload, Application):
                servers[name] = Server(name, workload, pods, environment, claims, ready)
            else:
                trainings[name] = Training(
                    name,
                    workload,
                    pods,
                    settings.nodes_of(name),
                    environment,
                    cluster,
                    claims,
                    ready,
                    login=TRACKING_CLIENT if tracking is not None else None,
                )
            protections[name] = Protection(
                name,
                namespace,
                workload,
                guarded(name, workload),
                pods,
                settings.kanister.namespace,
                store_objects,
                after(ready, kanister, access),
                queued=isinstance(workload, Workload) and workload.queue is not None,
            )
        if any(each.namespace == namespace for each in settings.foreign.values()):
            ClosedTasks(f"{namespace}-tasks", namespace, here)
    protected = pipeline.protected if pipeline is not None else None
    if pipeline is not None and protected is not None:
        environment = pipeline_environment(
            settings.pipeline.backup, protected, store, settings.kanister.namespace
        )
        protections[PIPELINE] = _pipeline_backup(
            settings, pipeline, protected, pods, environment, kanister
        )
    outputs = replace(
        _outputs(settings, volumes, trainings, servers, protections),
        publishers={namespace: each.account_name for namespace, each in publishers.items()},
        assets_prune_schedule=sweep.cron_job_name,
        pipeline_namespace=protected.namespace if protected is not None else None,
        training_runtimes={n: f.runtime_name for n, f in foreign.items() if f.runtime_name} or None,
    )
    if tracking is not None:
        outputs = replace(
            outputs, tracking_url=tracking.url, tracking_service=tracking.service_name
        )
    return replace(outputs, platform=platform.exports)


def _platform(settings: Settings, project: Project) -> Platform:
    """The cluster, made or found."""
    if isinstance(settings, EksStack):
        # Here, since the AWS SDK takes a second that other targets need not wait.
        from infra.aws import eks

        return eks.build(settings, project)
    if isinstance(settings, KubernetesStack):
        return on_kubernetes(settings)
    raise TypeError(f"no platform is made for {type(settings).__name__}")


def _in_namespace(
    namespace: str, settings: Settings, volumes: list[ClaimedVolume], opts: Options
) -> Options:
    """``opts``, and only after the namespace exists; claims the volumes in it. A namespace that
    holds an existing claim is not the stack's: `up` could not make it again, and `destroy` would
    delete the claim with it."""
    made = None
    if settings.makes_namespace(namespace):
        first = [each for volume in volumes for each in volume.objects]
        made = WorkloadNamespace(namespace, namespace, after(opts, *first))
    for volume in volumes:
        volume.claim(made.namespace if made else None)
    return after(opts, made) if made else opts


def _accounts(settings: Settings) -> dict[str, Guarded]:
    """Which service account may ask Kanister for what."""
    accounts = {
        f"{workload.namespace}.{backup_account(name)}": guarded(name, workload)
        for name, workload in settings.workloads.items()
    }
    if (server := protected_server(settings.pipeline)) is not None:
        accounts[f"{server.namespace}.{backup_account(PIPELINE)}"] = guarded_pipeline(server)
    return accounts


def _prepared_directories(
    settings: Settings, platform: Platform, cluster: Kubectl, opts: Options
) -> list[pulumi.Resource]:
    """Directories that would be root's, given to the pods' user; nothing where there are none."""
    kinds = HostPathVolume | FsxLustreVolume
    volumes = [v for _, _, v in settings.volumes() if isinstance(v, kinds)]
    if not volumes:
        return []
    system = SystemNamespace("system", opts)
    return [
        PreparedDirectory(
            f"{volume.name}-directory",
            volume,
            settings.images.tools,
            settings.run_as,
            cluster,
            after(opts, system),
            source=platform.sources.get(volume.claim),
        )
        for volume in volumes
    ]


def _store_volume(
    settings: Settings, namespace: str, cluster: Kubectl, opts: Options
) -> list[ClaimedVolume]:
    """The store's volume as one namespace mounts it; nothing where the store is a bucket."""
    volume = settings.backup_store.volume
    if volume is None:
        return []
    return [
        ClaimedVolume(
            f"{namespace}-store",
            volume,
            namespace,
            cluster,
            opts,
            volume_name=volume_name(volume.name, namespace),
            grace_seconds=settings.longest_grace_of_pods(namespace),
        )
    ]


@dataclass(frozen=True)
class _Pipeline:
    """The tracking server, and what its backups stand on."""

    server: TrackingServer | None
    """The stack's own; None where someone else installed it."""
    protected: ProtectedServer | None
    """What is backed up; None: nothing is."""
    ready: Options
    """Waits for the namespace and for the claims in it."""
    store: list[ClaimedVolume]
    """The backup store as its namespace mounts it."""


def _pipeline(
    settings: Settings,
    platform: Platform,
    cluster: Kubectl,
    homes: Mapping[str, Options],
    opts: Options,
) -> _Pipeline | None:
    """The experiment tracking, with its volumes; None where the stack has none."""
    tracking, protected = settings.pipeline.tracking, protected_server(settings.pipeline)
    namespace = tracking.namespace if tracking is not None else None
    if protected is not None:
        namespace = protected.namespace
    if namespace is None:
        return None
    volumes = [
        ClaimedVolume(
            f"tracking-{volume.name}",
            volume,
            namespace,
            cluster,
            opts,
            source=platform.sources.get(volume.claim),
        )
        for _, volume in (tracking.volumes() if tracking is not None else ())
    ]
    store = _store_volume(settings, namespace, cluster, opts) if protected is not None else []
    here = _in_namespace(namespace, settings, [*store, *volumes], opts)
    server = None
    if tracking is not None:
        claims = [each for volume in volumes for each in volume.objects]
        server = TrackingServer(
            "tracking", tracking, settings.run_as, homes, claims, after(here, *volumes)
        )
    return _Pipeline(server, protected, after(here, *volumes, *store), store)


def _pipeline_backup(
    settings: Settings,
    pipeline: _Pipeline,
    server: ProtectedServer,
    pods: PodSettings,
    environment: Mapping[str, str],
    kanister: Kanister,
) -> Protection:
    """The schedule that makes one snapshot of database and artifacts, and what Kanister may do."""
    namespace, what = settings.kanister.namespace, guarded_pipeline(server)
    access = KanisterAccess(
        "pipeline-kanister", server.namespace, namespace, [what], pipeline.ready
    )
    configuration = PipelineConfiguration(
        "pipeline", server, pods.store, environment, pipeline.ready
    )
    claims = [each for volume in pipeline.store for each in volume.objects]
    return Protection(
        PIPELINE,
        server.namespace,
        settings.pipeline.backup,
        what,
        pods,
        namespace,
        claims,
        after(pipeline.ready, kanister, access, configuration),
    )


def _assets(
    settings: Settings,
    pods: PodSettings,
    store: Mapping[str, str],
    volumes: Mapping[str, list[ClaimedVolume]],
    homes: Mapping[str, Options],
) -> tuple[dict[str, Publisher], Sweep]:
    """Who may add datasets and models, in each namespace of workloads, and what sweeps after them,
    in the first one. ``volumes``: the store's, by namespace."""
    environment = publisher_environment(store, settings.longest_grace)
    publishers = {
        namespace: Publisher(f"{namespace}-publisher", namespace, environment, here)
        for namespace, here in homes.items()
    }
    first = next(iter(homes))
    ready = after(homes[first], publishers[first], *volumes[first])
    claims = [each for volume in volumes[first] for each in volume.objects]
    return publishers, Sweep("assets-prune", first, pods, claims, ready)


def _client(tracking: TrackingServer | None, namespace: str) -> list[pulumi.Resource]:
    """What a trainer logs in with, where there is experiment tracking."""
    return [] if tracking is None else [tracking.client_secrets[namespace]]


def _outputs(
    settings: Settings,
    volumes: dict[str, ClaimedVolume],
    trainings: dict[str, Training],
    servers: dict[str, Server],
    protections: dict[str, Protection],
) -> Outputs:
    names = list(settings.workloads)
    first = names[0]
    jobs = {name: training.job_name for name, training in trainings.items()}
    deployments = {name: server.deployment_name for name, server in servers.items()}
    running: dict[str, Training | Server] = {**trainings, **servers}
    return Outputs(
        persistent_volume_name=volumes[first].volume_name,
        persistent_volume_claim_name=volumes[first].claim_name,
        training_job_name=next(iter(jobs.values()), None),
        application_name=next(iter(deployments.values()), None),
        persistent_volumes={
            name: volume for name in names if (volume := volumes[name].volume_name) is not None
        },
        persistent_volume_claims={name: volumes[name].claim_name for name in names},
        training_jobs=jobs or None,
        applications=deployments or None,
        services={name: each.service_name for name, each in running.items()} or None,
        backup_schedules={name: each.cron_job_name for name, each in protections.items()},
        namespaces={name: settings.workloads[name].namespace for name in names},
    )

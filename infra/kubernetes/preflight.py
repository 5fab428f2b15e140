"""Whether the cluster allows what the settings say, asked before the first resource.

Pulumi compares the settings with its own record. What it does not see: that a claim is being
deleted, that a volume shrinks or moves, that a namespace or volume which goes takes someone's data
along. The cluster tells; `preview` and `up` stop here, with the remedy, while nothing is touched.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pulumi

from infra import versions
from infra.kubernetes.hooks import claimant, is_leaving
from infra.kubernetes.kubectl import ClusterError, Kubectl, NoClusterYet
from infra.kubernetes.restart import RESTART_ALL, RESTARTING_JOB
from infra.kubernetes.sources import describe, source_of
from infra.manifests import Manifest
from infra.names import (
    MADE_BY_STACK_ANNOTATION,
    PART_OF,
    SYSTEM_NAMESPACE,
    WORKLOAD_LABEL,
    ZONE_ANNOTATION,
    config_map_name,
    volume_name,
)
from infra.settings import EksStack, ExistingClaim, Settings, Volume
from infra.settings.fields import size_bytes

#: The kind that Kubeflow Trainer brings.
RUNTIMES = "clustertrainingruntimes.trainer.kubeflow.org"
OURS = ",".join(f"{key}={value}" for key, value in PART_OF.items())
NOT_OURS = ",".join(f"{key}!={value}" for key, value in PART_OF.items())


@dataclass(frozen=True)
class Wanted:
    """A volume of the settings as one namespace claims it."""

    where: str
    """The setting."""
    volume: Volume
    namespace: str
    name: str
    """The PersistentVolume's."""


def check(settings: Settings, cluster: Kubectl) -> None:
    """Stop with everything that stands in the way; remember what is absent.

    Raises:
        ClusterError: with one line for each problem; also where kubectl gets no answer.
    """
    try:
        cluster.reach()
    except NoClusterYet:
        return
    for namespace in settings.namespaces():
        # What replacing a Job asks for, when the old Job is already deleted.
        cluster.names("jobs,pods", namespace, f"--selector={WORKLOAD_LABEL}")
    wanted = list(_wanted(settings))
    volumes = {v["metadata"]["name"]: v for v in _labelled(cluster, "persistentvolume")}
    problems = [
        *_namespaces(settings, cluster),
        *_bucket(settings, cluster),
        *_existing_server(settings, cluster),
        *_foreign(settings, cluster),
        *_restarts(settings, cluster),
        *_let_go(settings, wanted, volumes),
    ]
    for each in wanted:
        problems += _volume(settings, cluster, each, volumes.get(each.name))
    if problems:
        raise ClusterError("\n".join(problems))


def must_exist(
    cluster: Kubectl,
    resource: pulumi.CustomResource,
    kind: str,
    name: str,
    namespace: str | None = None,
) -> None:
    """Stop where Pulumi's record has an object that is gone: it would change nothing. A preview
    knows the id of what the record has, and of nothing that is still to be made."""
    if _key(kind, name, namespace) not in cluster.absent:
        return

    def ask(_: str) -> None:
        if not cluster.objects(kind, names=[name], namespace=namespace):
            raise ClusterError(
                f"{_key(kind, name, namespace)} is gone from the cluster, but not from the stack's "
                "record: run pulumi up --refresh, which makes it again; the data stay"
            )

    resource.id.apply(ask)


def _key(kind: str, name: str, namespace: str | None) -> str:
    return f"{kind}/{name}" + (f" in {namespace}" if namespace else "")


def _wanted(settings: Settings) -> Iterator[Wanted]:
    for where, scope, volume in settings.volumes():
        if isinstance(volume, ExistingClaim):
            continue
        if scope:
            yield Wanted(where, volume, scope, volume_name(volume.name))
            continue
        for namespace in settings.namespaces():  # the store, in each that mounts it
            yield Wanted(where, volume, namespace, volume_name(volume.name, namespace))


def _labelled(cluster: Kubectl, kind: str) -> list[Manifest]:
    return cluster.objects(kind, f"--selector={OURS}")


def _volume(
    settings: Settings, cluster: Kubectl, wanted: Wanted, volume: Manifest | None
) -> Iterator[str]:
    """What is wrong with one volume and its claim."""
    name, namespace = wanted.volume.claim, wanted.namespace
    claims = cluster.objects("persistentvolumeclaim", names=[name], namespace=namespace)
    for kind, thing, place, found in (
        ("persistentvolume", wanted.name, None, volume is not None),
        ("persistentvolumeclaim", name, namespace, bool(claims)),
    ):
        if not found:
            cluster.absent.add(_key(kind, thing, place))
    for claim in claims:
        yield from _claim(cluster, claim, wanted)
    if volume is None:
        return
    if is_leaving(volume) and claims:
        yield (
            f"{wanted.where}: PersistentVolume {wanted.name} is being deleted and ends with its "
            f"claim: kubectl -n {namespace} delete pvc {name}, then run pulumi up --refresh, which "
            "makes both again; the data stay"
        )
    has = volume["spec"]["capacity"]["storage"]
    if size_bytes(has) > size_bytes(wanted.volume.size):
        yield (
            f"{wanted.where}.size: {wanted.volume.size} is less than the {has} that the volume "
            "has: a volume never shrinks; use another volume name, which the next pod fills from "
            "the store"
        )
    if claimant(volume)[0] != namespace:
        yield (
            f"{wanted.where}: volume {wanted.volume.name} is claimed in namespace "
            f"{claimant(volume)[0]}, where a pod may still write to it: give the volume another "
            "name too, which the next pod fills from the store"
        )
    yield from _place(wanted, volume)
    if claims and _is_forgotten(volume, claims[0]) and not pulumi.runtime.is_dry_run():
        cluster.release(wanted.name)


def _claim(cluster: Kubectl, claim: Manifest, wanted: Wanted) -> Iterator[str]:
    name, namespace = claim["metadata"]["name"], wanted.namespace
    if is_leaving(claim):
        pods = cluster.pods_with(name, namespace)
        delete = f"kubectl -n {namespace} delete pod {' '.join(pods)}"
        keeps = f"pods keep it: {delete}, " if pods else ""
        yield (
            f"{wanted.where}: claim {name} in {namespace} is being deleted: {keeps}"
            "then run pulumi up --refresh, which makes it again; the data stay"
        )
    elif claim.get("status", {}).get("phase") == "Lost":
        yield (
            f"{wanted.where}: claim {name} in {namespace} has lost its volume: "
            f"kubectl -n {namespace} delete pvc {name}, then run pulumi up --refresh, which makes "
            "both again; the data stay"
        )


def _is_forgotten(volume: Manifest, claim: Manifest) -> bool:
    """Whether a volume still waits for a claim that is gone, while the next one waits for it."""
    reference = volume["spec"].get("claimRef", {})
    return (
        claimant(volume) == (claim["metadata"]["namespace"], claim["metadata"]["name"])
        and bool(reference.get("uid"))
        and reference["uid"] != claim["metadata"]["uid"]
    )


def _place(wanted: Wanted, volume: Manifest) -> Iterator[str]:
    """Whether the volume would be somewhere else: another directory, server, device or zone."""
    declared, spec = source_of(wanted.volume) or {}, volume["spec"]
    if any(not _holds(spec.get(key), value) for key, value in declared.items() if _is_place(key)):
        yield (
            f"{wanted.where}: volume {wanted.volume.name} is at {describe(spec)}, and a "
            "PersistentVolume cannot move: give the volume another name too; what this one holds "
            "stays there, and the next pod fills the new one from the store"
        )
    before = volume["metadata"].get("annotations", {}).get(ZONE_ANNOTATION)
    now = getattr(wanted.volume, "zone", before)
    if before and before != now:
        yield (
            f"{wanted.where}.zone: volume {wanted.volume.name} is in {before}, and AWS moves none "
            f"to {now}: give the volume another name too, which the next pod fills from the store"
        )


def _is_place(key: str) -> bool:
    return key != "mountOptions"


def _holds(actual: object, declared: object) -> bool:
    """Whether ``actual`` says all that ``declared`` says; the API server adds defaults."""
    if isinstance(declared, Mapping):
        return isinstance(actual, Mapping) and all(
            _holds(actual.get(key), value) for key, value in declared.items()
        )
    return actual == declared


def _let_go(
    settings: Settings, wanted: list[Wanted], volumes: Mapping[str, Manifest]
) -> Iterator[str]:
    """Volumes of this stack's namespaces that the settings no longer have."""
    names, namespaces = {each.name for each in wanted}, {each.namespace for each in wanted}
    for name, volume in volumes.items():
        if name in names or claimant(volume)[0] not in namespaces | set(settings.namespaces()):
            continue
        plain = name.removesuffix("-vol")
        if volume["metadata"].get("annotations", {}).get(MADE_BY_STACK_ANNOTATION):
            yield from _goes(settings, plain, f"volume {plain}: the settings no longer have it")
        else:
            pulumi.log.info(
                f"volume {plain} is not in the settings any more: its PersistentVolume goes, and "
                f"what it holds stays at {describe(volume['spec'])}"
            )


def _goes(settings: Settings, name: str, change: str) -> Iterator[str]:
    """A change by which what the stack made in AWS goes, unless the settings say that it may."""
    if not isinstance(settings, EksStack) or name in settings.discard:
        return
    yield f"{change}: {_fate(settings, name)}: take the change back, or say discard: [{name}]"


def _fate(settings: EksStack, name: str) -> str:
    if settings.keeps_data:
        return (
            f"{name} is protected, and `up` would stop at it half-way (it stays in AWS, see "
            "docs/changes.md)"
        )
    return f"data_stores is deletable, so `up` would delete {name} with all that it holds"


def _namespaces(settings: Settings, cluster: Kubectl) -> Iterator[str]:
    """Namespaces that the stack made, would delete now, and that hold claims of others."""
    used = {scope for _, scope, _ in settings.volumes() if scope} | set(settings.namespaces())
    made = {settings.kanister.namespace, SYSTEM_NAMESPACE}
    made |= {namespace for namespace in used if settings.makes_namespace(namespace)}
    for namespace in _labelled(cluster, "namespace"):
        name = namespace["metadata"]["name"]
        if name in made:
            continue
        claims = cluster.names("persistentvolumeclaim", name, f"--selector={NOT_OURS}")
        if claims or name in settings.namespaces():
            theirs = ", ".join(claims) or "any claim that you make there"
            yield (
                f"namespace {name}: this stack made it and would now delete it, with {theirs}: "
                "use a namespace of your own for existing claims, or move them first"
            )


def _existing_server(settings: Settings, cluster: Kubectl) -> Iterator[str]:
    """Whether the tracking server of someone else is there, with all that its tasks mount."""
    server = settings.pipeline.existing
    if server is None:
        return
    place, where = server.namespace, "pipeline.existing"
    if not cluster.objects("namespace", names=[place]):
        yield f"{where}.namespace: there is no namespace {place}: install the server first"
        return
    kinds = "deployments,persistentvolumeclaims,secrets"
    there = {_without_group(name) for name in cluster.names(kinds, place)}
    encryption = server.encryption
    wanted = {
        "deployment": ("Deployment", server.deployment),
        "artifacts.claim": ("PersistentVolumeClaim", server.artifacts.claim),
        "database.secret": ("Secret", server.database.secret),
        "database.reader": ("Secret", server.database.reader),
        "encryption.secret": ("Secret", encryption.secret if encryption is not None else None),
    }
    for key, (kind, name) in wanted.items():
        if name is not None and f"{kind.lower()}/{name}" not in there:
            yield f"{where}.{key}: there is no {kind} {name} in {place}: correct it, or make it"


def _foreign(settings: Settings, cluster: Kubectl) -> Iterator[str]:
    """Whether the claims of others are there, and the kind of runtime that their TrainJobs name."""
    trainjobs = [n for n, each in settings.foreign.items() if each.owner.kind == "trainjob"]
    if trainjobs and not cluster.objects("customresourcedefinition", names=[RUNTIMES]):
        yield (
            f"workloads.{trainjobs[0]}.owner.kind: the cluster knows no TrainJob: install Kubeflow "
            "Trainer 2.3 first"
        )
    for name, workload in settings.foreign.items():
        place, claim = workload.namespace, workload.volume.name
        if not cluster.objects("namespace", names=[place]):
            yield (
                f"workloads.{name}.namespace: there is no namespace {place}: correct it, or make it"
            )
        elif not cluster.objects("persistentvolumeclaim", names=[claim], namespace=place):
            yield (
                f"workloads.{name}.volume.name: there is no PersistentVolumeClaim {claim} in "
                f"{place}: correct it, or make it"
            )


def _restarts(settings: Settings, cluster: Kubectl) -> Iterator[str]:
    """Whether the API server knows how to restart all containers of a pod: a Job that it refuses
    would be refused after the one before it is deleted. On EKS the version tells."""
    wanted = [n for n, each in settings.trainings.items() if each.restart == "all-containers"]
    if not wanted or isinstance(settings, EksStack):
        return
    refusal = cluster.refusal(RESTARTING_JOB)
    # Any other reason, such as a policy of the namespace, is not about what is asked here.
    if RESTART_ALL in refusal:
        yield (
            f"workloads.{wanted[0]}.restart: the API server knows no all-containers: it needs "
            f"Kubernetes {versions.RESTARTS_ALL_CONTAINERS}, or the feature gates "
            "RestartAllContainersOnContainerExits and NodeDeclaredFeatures on all its parts: use "
            "container, or upgrade the cluster"
        )


def _without_group(name: str) -> str:
    """``deployment/mlflow`` of kubectl's ``deployment.apps/mlflow``."""
    kind, _, own = name.partition("/")
    return f"{kind.partition('.')[0]}/{own}"


def _bucket(settings: Settings, cluster: Kubectl) -> Iterator[str]:
    """A bucket of the stack's own that gets another name is another bucket."""
    if not isinstance(settings, EksStack):
        return
    now = settings.backup_store.create.name if settings.backup_store.create else None
    old = {
        config["data"]["HOLDFAST_STORE"].removeprefix("s3://").partition("/")[0]
        for workload in settings.workloads.values()
        for config in cluster.objects(
            "configmap",
            names=[config_map_name(workload.volume.claim)],
            namespace=workload.namespace,
        )
        if MADE_BY_STACK_ANNOTATION in config["metadata"].get("annotations", {})
    }
    for bucket in sorted(old - {now}):
        yield from _goes(settings, bucket, f"backup_store: the backups are in bucket {bucket}")

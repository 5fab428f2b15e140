"""docs/changes.md: what each setting does to a stack that runs, derived from the graphs before and
after the change, and from what the cluster then refuses."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest

from infra.kubernetes.kubectl import ClusterError, Kubectl
from infra.kubernetes.preflight import check
from infra.kubernetes.training import IMMUTABLE
from infra.plan.graph import Graph, Resource
from infra.settings import (
    PROJECT_DIRECTORY,
    Application,
    EksStack,
    ForeignPods,
    KubernetesStack,
    Settings,
    Workload,
    parse,
)
from testkit import eks_factories, factories
from tests.golden import compare

PAGE = PROJECT_DIRECTORY / "docs" / "changes.md"
START = "<!-- written by tests/infra/plan/test_changes.py -->\n"
END = "<!-- end of what is written -->\n"
Manifest = dict[str, Any]

IN_PLACE, JOB, NODES = "in place", "the Job is replaced", "nodes are replaced"
DATA, ANEW, REFUSED, NOTHING = "the data move", "all is made anew", "refused", "nothing"

#: What AWS cannot change in what there is, as its provider's schema says; and what it then means.
MADE_ANEW = {
    "aws:ec2/launchTemplate:LaunchTemplate": (NODES, None),
    "aws:eks/nodeGroup:NodeGroup": (
        NODES,
        {"version", "releaseVersion", "instanceTypes", "subnetIds", "amiType", "capacityType"},
    ),
    "aws:ebs/volume:Volume": (DATA, {"availabilityZone"}),
    "aws:fsx/lustreFileSystem:LustreFileSystem": (
        DATA,
        {"subnetIds", "deploymentType", "storageType"},
    ),
    "aws:s3/bucket:Bucket": (DATA, {"bucket"}),
    "aws:ec2/vpc:Vpc": (ANEW, {"cidrBlock"}),
    "eks:index:Cluster": (ANEW, {"name", "kubernetesServiceIpAddressRange"}),
    "pulumi:providers:kubernetes": (ANEW, {"clusterIdentifier"}),
}
STORES = {
    "aws:ebs/volume:Volume", "aws:efs/fileSystem:FileSystem", "aws:s3/bucket:Bucket",
    "aws:fsx/lustreFileSystem:LustreFileSystem", "kubernetes:core/v1:PersistentVolume",
}  # fmt: skip
ORDER = [REFUSED, ANEW, DATA, NODES, JOB, IN_PLACE, NOTHING]


@dataclass(frozen=True)
class Change:
    """One row: the settings that it stands for, an example, and what a person must know."""

    settings: str
    example: Manifest
    note: str = ""
    eks: bool = False
    before: Manifest = field(default_factory=dict)


W, V = "workloads.gpt.", "workloads.gpt.volume."
NFS = {"kind": "nfs", "name": "shared", "size": "1Ti", "server": "nfs.example", "path": "/a"}
LUSTRE = {**eks_factories.LUSTRE, "size": "2400Gi"}
LATER = "read by the next pod or task that starts"
STOPS = "the run stops, saves, and goes on in the new Job; `rollout: manual` defers it"
ROLLS = "one node at a time; a run on it saves and goes on elsewhere"
MOVES = "see [moving](#to-another-volume-zone-or-bucket)"

CHANGES = [
    Change("workloads.*.{keep, start, push, grace, retention, backup_timeout}",
           {W + "keep": 5, W + "start": "require", W + "push": "all", W + "grace": 90000,
            W + "retention": {"daily": 9}, W + "backup_timeout": 1800}, LATER),
    Change("workloads.*.schedule", {W + "schedule": "0 * * * *"}),
    Change("workloads.*.run", {W + "run": "next"},
           "a new start from step 0; the old run's bundles stay on the volume"),
    Change("workloads.*.{image, command, env, interval, mount_path}",
           {W + "command": ["train"], W + "env": {"A": "b"}, W + "interval": 5}, STOPS),
    Change("workloads.*.{ranks, gpus_per_node, resources, shared_memory}",
           {W + "ranks": 2, W + "shared_memory": "2Gi"}, STOPS),
    Change("workloads.*.{nodes, min_nodes}", {W + "nodes": 3, W + "min_nodes": 2}, STOPS,
           before={W + "volume": NFS, W + "nodes": 2, "backup_store": factories.BUCKET}),
    Change("workloads.*.{port, save_seconds, upload_seconds, termination_grace_seconds}",
           {W + "port": 9000, W + "termination_grace_seconds": 600}, STOPS),
    Change("workloads.*.restart", {W + "restart": "all-containers"}, STOPS),
    Change("workloads.*.{backoff_limit}", {W + "backoff_limit": 7}),
    Change("workloads.*.queue", {W + "queue": "gpus"},
           "Kueue refuses it while the Job runs: suspend the Job first; it goes on once admitted"),
    Change("workloads.*.{pinned, bundle_size}", {W + "pinned": 1, W + "bundle_size": "1Gi"},
           "only the space rule uses them"),
    Change("workloads.*.rollout", {W + "rollout": "manual"},
           "changes of the pod's template wait until it says `replace` again"),
    Change("workloads.*.namespace", {W + "namespace": "other"},
           "give the volume another `name` as well: else it would have a writer in each"),
    Change("a further workload", {"workloads.second": {
        "run": "x", "volume": {**factories.HOST_PATH, "name": "second", "path": "/data/second"}}}),
    Change("workloads.*.{model, health_path} and all else of an application's pod",
           {"workloads.predictor.model": "churn@canary"},
           "a new pod starts when the old one is gone; no training stops",
           before={"workloads.predictor": factories.APPLICATION}),
    Change("workloads.*.{owner, service_account, keep, run} of kind protected",
           {"workloads.llama.owner": {"kind": "job", "name": "llama"},
            "workloads.llama.run": "next"},
           "read by the next restore; the pod template is yours to change, and TrainJobs in a "
           "queue [may stop](queues.md#a-trainjob)",
           before={"workloads.llama": factories.FOREIGN}),
    Change("volume.size, larger", {V + "size": "20Gi"},
           "the run stops, the claim is made anew with the same volume behind it"),
    Change("volume.size, smaller", {V + "size": "5Gi"}, "a volume never shrinks"),
    Change("volume.{path, node, server, portal, iqn, lun}", {V + "node": "node-2"},
           "give the volume another `name` as well"),
    Change("volume.name", {V + "name": "other", V + "path": "/data/other"},
           "a new volume, which the next pod fills from the store; what the old one holds stays "
           "where it is"),
    Change("volume.storage_class", {V + "storage_class": "other"},
           "the claim is made anew with the same volume behind it"),
    Change("volume.mount_options", {V + "mount_options": ["hard"]}, "from the next mount on",
           before={W + "volume": NFS, "backup_store": factories.BUCKET}),
    Change("volume.kind, to existing-claim in a namespace of the stack",
           {W + "volume": {"kind": "existing-claim", "name": "mine", "size": "1Ti"},
            "backup_store": factories.BUCKET},
           "`up` would delete the namespace with the claim: name a namespace of your own"),
    Change("images.tools", {"images.tools": "tools:2"}, STOPS),
    Change("images.training", {"images.training": "training:2"}, STOPS),
    Change("run_as", {"run_as": 2000},
           "the directory gets the new owner, what it holds keeps the old one: change it first"),
    Change("kanister.{version, chart, repository, values}",
           {"kanister.version": "0.120.0", "kanister.values": {"a": "b"}},
           "wait until no backup runs: a restarted controller forgets what it was doing"),
    Change("backup_store.{prefix, owner, existing}", {"backup_store.prefix": "other/place"},
           "backups go there; the old ones stay"),
    Change("backup_store.volume.size, larger", {"backup_store.volume.size": "60Gi"},
           "the run stops, the claim is made anew with the same volume behind it"),
    Change("pipeline.tracking", {"pipeline.tracking": {
        "image": "tracking:1", "allowed_hosts": ["tracking"],
        "artifacts": {"volume": {**NFS, "name": "artifacts"}},
        "database": {"kind": "existing", "host": "db", "name": "mlflow", "secret": "db"}}},
        "trainers get a login"),
    Change("pipeline.backup", {"pipeline.backup": {"schedule": "30 2 * * *", "grace": 90000}},
           "read by the next task that starts; `enabled: false` takes the schedule away, and "
           "leaves the snapshots",
           before={"pipeline.tracking": {
               "database": {"kind": "existing", "host": "db", "secret": "db"},
               "artifacts": {"volume": {**NFS, "name": "artifacts"}}}}),
    Change("cluster_identifier", {"cluster_identifier": "other"}, "it is another cluster"),
    Change("aws.tags", {"aws.tags": {"owner": "me"}}, f"{ROLLS}: the nodes' own tags change",
           eks=True),
    Change("node_groups.*.disk_size", {"node_groups.training.cpu.disk_size": "200Gi"}, ROLLS,
           eks=True),
    Change("node_groups.*.instance_types",
           {"node_groups.training.cpu.instance_types": ["m7i.2xlarge"]},
           "a new group, then the old one goes; the run moves", eks=True),
    Change("node_groups.*.{scaling, repair}, cluster.{access, api_access, addons, log_days, "
           "deletion_protection}, network.{flow_log_days, nat}, registry, "
           "backup_store.create.{object_lock, noncurrent_days, log_days}",
           {"node_groups.training.cpu.scaling": {"max": 4}, "cluster.log_days": 30,
            "cluster.addons": {"coredns": "v1.14.3-eksbuild.9"}, "network.flow_log_days": 60,
            "registry.keep": 10, "backup_store.create.noncurrent_days": 200}, eks=True),
    Change("cluster.version", {"cluster.version": "1.36"},
           "control plane first, then the nodes; one minor version at a time", eks=True),
    Change("cluster.version with node_version",
           {"cluster.version": "1.36", "cluster.node_version": "1.35"},
           "the first half of an [upgrade](upgrade.md): the control plane and its add-ons alone",
           eks=True),
    Change("aws.permissions_boundary, backup_store.create.replica",
           {"aws.permissions_boundary": "arn:aws:iam::123456789012:policy/limits",
            "backup_store.create.replica": {"name": "test-copies", "region": "eu-west-1"}},
           "S3 copies what is written from then on", eks=True),
    Change("volume.metadata_iops", {V + "metadata_iops": 12000},
           "AWS changes it while it is used; never lower it or take it out", eks=True,
           before={W + "volume": {**LUSTRE, "metadata_iops": 6000}}),
    Change("cluster.name", {"cluster.name": "other"},
           "it is another cluster; refused by EKS while `deletion_protection` is on", eks=True),
    Change("network.cidr", {"network.cidr": "10.1.0.0/16"}, "it is another network", eks=True),
    Change("data_stores", {"data_stores": "deletable"}, "what `destroy` does from then on",
           eks=True),
    Change("volume.size of ebs and fsx-lustre, larger", {V + "size": "40Gi"},
           "the disk grows, the run stops, the claim is made anew, the file system grows at the "
           "next mount", eks=True),
    Change("volume.size of ebs and fsx-lustre, smaller", {V + "size": "1200Gi"},
           "a volume never shrinks", eks=True,
           before={W + "volume": LUSTRE}),
    Change("volume.{type, iops, throughput, backup_days}", {V + "iops": 6000},
           "AWS changes it while it is used", eks=True),
    Change("volume.zone", {V + "zone": "use1-az2", "node_groups.training.cpu.zone": "use1-az2"},
           MOVES, eks=True),
    Change("volume.name of ebs, efs and fsx-lustre", {V + "name": "other"}, MOVES, eks=True),
    Change("volume.{name, zone} with discard",
           {V + "name": "other", V + "zone": "use1-az2",
            "node_groups.training.cpu.zone": "use1-az2", "discard": ["checkpoints"]}, MOVES,
           eks=True),
    Change("backup_store.create.name", {"backup_store.create.name": "other-backups"}, MOVES,
           eks=True),
    Change("backup_store.create.name with discard",
           {"backup_store.create.name": "other-backups", "discard": ["test-backups"]}, MOVES,
           eks=True),
]  # fmt: skip


class Running(Kubectl):
    """The cluster as the graph's `up` left it, and what others have in it."""

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self.absent: set[str] = set()
        self._objects = [_bound(manifest) for manifest in graph.kubernetes()]
        for pods in settings.foreign.values():
            claim = {"name": pods.volume.name, "namespace": pods.namespace}
            self._objects += [
                {"kind": "Namespace", "metadata": {"name": pods.namespace}},
                {"kind": "PersistentVolumeClaim", "metadata": claim},
            ]

    def reach(self) -> list[str]:
        return []

    def names(self, kinds: str, namespace: str, *options: str) -> list[str]:
        found = self.objects(kinds, *options, namespace=namespace)
        return [f"{m['kind'].lower()}/{m['metadata']['name']}" for m in found]

    def objects(self, kind: str, *options: str, names=(), namespace=None) -> list[Manifest]:
        theirs = any("!=" in option for option in options)
        ours = any(option.startswith("--selector=") for option in options)
        return [
            m
            for m in self._objects
            if m["kind"].lower() == kind.removesuffix("s")
            and not theirs
            and (not ours or "labels" in m["metadata"])
            and (not names or m["metadata"]["name"] in names)
            and namespace in (None, m["metadata"].get("namespace"))
        ]

    def release(self, volume: str) -> None:
        raise AssertionError(f"{volume} is bound, and yet it is released")


def _bound(manifest: Manifest) -> Manifest:
    bound = deepcopy(manifest)
    bound["metadata"]["uid"] = f"uid-of-{manifest['metadata']['name']}"
    if bound["kind"] == "PersistentVolume":
        bound["spec"]["claimRef"]["uid"] = f"uid-of-{bound['spec']['claimRef']['name']}"
    bound["status"] = {"phase": "Bound"}
    return bound


def outcome(change: Change) -> str:
    """What happens at the next `up`, the gravest first."""
    factory = eks_factories if change.eks else factories
    before = factory.graph(**change.before)
    data = {**change.before, **change.example}
    settings = parse(factory.valid(**data))
    try:
        check(settings, Running(before, settings))
    except ClusterError:
        return REFUSED
    after = factory.graph(**data)
    found = set(_effects(before, after)) or {NOTHING}
    return " and ".join(sorted(found - {IN_PLACE} or found, key=ORDER.index))


def _effects(before: Graph, after: Graph) -> Iterator[str]:
    old = {r.urn: r for r in before.resources}
    new = {r.urn: r for r in after.resources}
    replaced = {urn for urn in old.keys() & new.keys() if _is_replaced(old[urn], new[urn])}
    replaced |= {r.urn for r in after.resources if set(r.options.replace_with) & replaced}
    for urn in old.keys() | new.keys():
        was, now = old.get(urn), new.get(urn)
        if was is None or now is None:
            kind = (was or now).type  # type: ignore[union-attr]
            yield DATA if was is not None and kind in STORES else IN_PLACE
        elif urn in replaced:
            meaning, _ = MADE_ANEW.get(now.type, (IN_PLACE, None))
            yield JOB if _trains(now) else DATA if now.type in STORES else meaning
        elif was.inputs != now.inputs or was.options != now.options:
            yield IN_PLACE


def _is_replaced(was: Resource, now: Resource) -> bool:
    if was.type in MADE_ANEW:
        _, keys = MADE_ANEW[was.type]
        changed = {k for k in was.inputs.keys() | now.inputs.keys()
                   if was.inputs.get(k) != now.inputs.get(k)}  # fmt: skip
        return bool(changed if keys is None else changed & keys)
    if _trains(was):
        fields = [path.removeprefix("spec.") for path in [*IMMUTABLE, "spec.template"]]
        ignored = set(now.options.ignore_changes)
        return was.inputs["metadata"]["namespace"] != now.inputs["metadata"]["namespace"] or any(
            was.inputs["spec"].get(f) != now.inputs["spec"].get(f)
            for f in fields if f"spec.{f}" not in ignored
        )  # fmt: skip
    if was.type == "kubernetes:core/v1:PersistentVolumeClaim":
        return was.inputs["spec"] != now.inputs["spec"]
    if was.type == "kubernetes:core/v1:PersistentVolume":
        sources = ("hostPath", "nfs", "iscsi", "csi")
        return any(was.inputs["spec"].get(s) != now.inputs["spec"].get(s) for s in sources)
    return False


def _trains(resource: Resource) -> bool:
    return resource.type.endswith(":Job") and "holdfast:training" in (resource.options.parent or "")


@pytest.mark.slow
def test_the_page_says_what_each_change_does():
    rows = [f"| `{c.settings}` | {outcome(c)} | {c.note} |" for c in CHANGES]
    text = PAGE.read_text(encoding="utf-8")
    first, _, rest = text.partition(START)
    _, _, last = rest.partition(END)
    compare(PAGE, f"{first}{START}| setting | at the next `up` | |\n| --- | --- | --- |\n"
                  + "\n".join(rows) + f"\n{END}{last}")  # fmt: skip


def test_the_page_has_a_row_for_each_setting_of_a_workload_and_of_the_stack():
    said = " ".join(change.settings for change in CHANGES) + PAGE.read_text(encoding="utf-8")
    known = {
        *KubernetesStack.model_fields, *EksStack.model_fields,
        *Workload.model_fields, *Application.model_fields, *ForeignPods.model_fields,
    }  # fmt: skip

    assert {name for name in known if name not in said} == set()

"""Documents of settings that are valid, for hypothesis, and ways to make one invalid."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

from hypothesis import strategies as st

from infra.settings.network import ZONES
from testkit.eks_factories import DIGEST
from testkit.factories import REMOVED

Document = dict[str, Any]

NAMES = ("gpt", "a", "model-2")
REGIONS = ("us-east-1", "us-west-2", "eu-central-1")
KINDS_ON_KUBERNETES = ("host-path", "existing-claim", "nfs", "iscsi")
KINDS_ON_EKS = ("ebs", "efs", "fsx-lustre", "nfs", "existing-claim")
BUCKETS = st.fixed_dictionaries(
    {"url": st.sampled_from(["s3://backups", "s3://backups/team/a"])},
    optional={
        "region": st.just("eu-central-1"),
        "endpoint": st.just("https://minio.example:9000"),
        "credentials_secret": st.just("store-keys"),
    },
)
SIZES = st.sampled_from(["20Gi", "100Gi", "2Ti"])


def volumes(kind: str, name: str, zone: str) -> st.SearchStrategy[Document]:
    """A volume of one kind, apart from every other by its name."""
    own = {"kind": st.just(kind), "name": st.just(f"{name}-data")}
    match kind:
        case "host-path":
            fields: dict[str, Any] = {
                "size": SIZES, "path": st.just(f"/data/{name}"),
                "node": st.sampled_from(["node-1", "node-2"]),
            }  # fmt: skip
        case "existing-claim":
            modes = [["ReadWriteMany"], ["ReadWriteOnce"], ["ReadWriteOnce", "ReadWriteMany"]]
            fields = {"size": SIZES, "access_modes": st.sampled_from(modes)}
        case "nfs":
            fields = {"size": SIZES, "server": st.just("nfs.example"), "path": st.just("/exports")}
        case "iscsi":
            fields = {
                "size": SIZES, "portal": st.just("10.0.0.9:3260"),
                "iqn": st.just("iqn.2004-04.com.example:checkpoints"), "lun": st.integers(0, 3),
            }  # fmt: skip
        case "ebs":
            performance = st.sampled_from(
                [{}, {"type": "gp3", "iops": 4000, "throughput": 1000}, {"type": "io2"},
                 {"volume_id": "vol-0123456789abcdef0"}]
            )  # fmt: skip
            whole = st.fixed_dictionaries({**own, "size": SIZES, "zone": st.just(zone)})
            return st.builds(lambda volume, more: {**volume, **more}, whole, performance)
        case "efs":
            fields = {}
        case _:
            kept = st.sampled_from([{}, {"backup_days": 0, "export": "s3://exports"}])
            sizes = st.sampled_from(["1200Gi", "4800Gi"])
            whole = st.fixed_dictionaries({**own, "size": sizes, "zone": st.just(zone)})
            return st.builds(lambda volume, more: {**volume, **more}, whole, kept)
    return st.fixed_dictionaries({**own, **fields})


@st.composite
def workloads(draw: st.DrawFn, kinds: tuple[str, ...], zone: str, groups: Document) -> Document:
    """One to three workloads, each on a volume of another kind."""
    names = NAMES[: draw(st.integers(1, 3))]
    chosen = draw(st.permutations(kinds))
    return {
        name: _foreign(draw, name, draw(volumes(kind, name, zone)))
        if kind == "existing-claim" and draw(st.booleans())
        else _workload(draw, name, draw(volumes(kind, name, zone)), groups)
        for name, kind in zip(names, chosen, strict=False)
    }


def _foreign(draw: st.DrawFn, name: str, volume: Document) -> Document:
    """Someone else's pods on a claim of theirs."""
    found = [{}, {"name": "their.job-1"}, {"label": "team/run=x.1"}]
    kinds = ["job", "jobset", "trainjob", "deployment", "statefulset"]
    return {
        "kind": "protected",
        "namespace": draw(st.sampled_from(["training", "team-b", "default"])),
        "volume": volume,
        "owner": {"kind": draw(st.sampled_from(kinds)), **draw(st.sampled_from(found))},
        "run": "demo",
        "service_account": f"{name}-theirs",
    }


def _workload(draw: st.DrawFn, name: str, volume: Document, groups: Document) -> Document:
    shared = volume["kind"] in ("efs", "fsx-lustre", "nfs") or "ReadWriteMany" in volume.get(
        "access_modes", ()
    )
    group = draw(st.sampled_from([None, *groups]))
    gpus = draw(st.sampled_from([0, 1, 4])) if group == "gpu" or not groups else 0
    return {
        "run": draw(st.sampled_from(["demo", "Run_2.b"])),
        "volume": volume,
        **({"node_group": group} if group else {}),
        **({"gpus_per_node": gpus, "ranks": gpus} if gpus else {}),
        **({"nodes": draw(st.integers(1, 2))} if shared else {}),
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "namespace": st.sampled_from(["training", "team-b"]),
                    "command": st.just(["python", "train.py", "--steps", "5"]),
                    "interval": st.integers(1, 1000),
                    "mount_path": st.just("/mnt/model"),
                    "port": st.integers(1024, 65535),
                    "schedule": st.sampled_from(["0 3 * * 0", "*/5 8-18 * * mon-fri"]),
                    "backup_timeout": st.integers(60, 10800),
                    "retention": st.just({"keep_last": 1, "daily": 0, "weekly": 0, "monthly": 0}),
                    "keep": st.integers(1, 9),
                    "bundle_size": st.just("1Gi"),
                    "start": st.sampled_from(["auto", "fresh", "require"]),
                    "push": st.sampled_from(["newest", "all"]),
                    "rollout": st.sampled_from(["replace", "manual"]),
                    **({} if groups else {"restart": RESTARTS}),
                    "env": st.just({"HOLDFAST_TRAINING_STEPS": "9", "MODE": "a b"}),
                    "resources": st.just({"cpu": "500m", "memory": "2Gi"}),
                    "termination_grace_seconds": st.integers(120, 3600),
                    "backoff_limit": st.integers(0, 5),
                },
            )
        ),
    }


#: On EKS what it may be depends on the version.
RESTARTS = st.sampled_from(["container", "all-containers"])


@st.composite
def kubernetes_documents(draw: st.DrawFn) -> Document:
    """Settings of a stack on a cluster that is there."""
    store = draw(
        st.one_of(
            st.builds(lambda v: {"volume": v}, volumes("host-path", "store", "")),
            st.builds(lambda v: {"volume": v}, volumes("nfs", "store", "")),
            st.builds(lambda bucket: {"existing": bucket}, BUCKETS),
        )
    )
    return {
        "target": "kubernetes",
        "cluster_identifier": "test",
        "backup_store": store,
        "workloads": draw(workloads(KINDS_ON_KUBERNETES, "", {})),
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "images": st.just({"tools": "tools:1.2", "training": f"registry/t{DIGEST}"}),
                    "kanister": st.just({"namespace": "backups"}),
                    "kubernetes": st.just({"context": "kind-kind"}),
                    "run_as": st.integers(1, 65535),
                },
            )
        ),
    }


@st.composite
def eks_documents(draw: st.DrawFn) -> Document:
    """Settings of a stack that makes its cluster."""
    region = draw(st.sampled_from(REGIONS))
    zone = draw(st.sampled_from(ZONES[region]))
    groups = draw(_groups(zone))
    store = st.one_of(
        st.just({"create": {"name": "test-backups"}}),
        st.just({"create": {"name": "test-backups", "noncurrent_days": 40,
                            "object_lock": {"mode": "compliance", "days": 30}}}),
        st.builds(lambda bucket: {"existing": bucket}, BUCKETS),
    )  # fmt: skip
    images = {"tools": f"registry/tools{DIGEST}", "training": f"registry/training{DIGEST}"}
    network = [{}, {"nat": "per-zone", "cidr": "192.168.0.0/21"},
               {"nat": "none", "interface_endpoints": True, "cidr": "172.16.0.0/16"}]  # fmt: skip
    access = [{"public_cidrs": ["203.0.113.0/24"]}, {"runner": "in-vpc"}]
    return {
        "target": "eks",
        "aws": {"account": "123456789012", "region": region},
        "network": draw(st.sampled_from(network)),
        "cluster": {
            "name": "test",
            "api_access": draw(st.sampled_from(access)),
            **draw(st.sampled_from([{}, {"access": _access()}])),
            **draw(
                st.sampled_from(
                    [{}, {"version": "1.36"}, {"version": "1.36", "node_version": "1.35"}]
                )
            ),
        },
        "node_groups": {"training": groups},
        "data_stores": draw(st.sampled_from(["protected", "deletable"])),
        "backup_store": draw(store),
        "workloads": draw(workloads(KINDS_ON_EKS, zone, groups)),
        **draw(st.sampled_from([{"images": images}, {"images": images}, {}])),
    }


def _groups(zone: str) -> st.SearchStrategy[Document]:
    cpu = st.builds(
        lambda more: {"instance_types": ["m7i.xlarge", "m6i.xlarge"], "zone": zone, **more},
        st.sampled_from([{}, {"capacity": "spot", "accept_interruptions": True}]),
    )
    gpu = st.builds(
        lambda more: {"instance_types": ["g5.12xlarge"], "zone": zone, **more},
        st.sampled_from([
            {"scaling": {"min": 0, "desired": 0, "max": 2}},
            {"efa": True, "placement_group": True},
            {"capacity": "reservation", "reservation_id": "cr-0123456789abcdef0"},
        ]),
    )  # fmt: skip
    return st.fixed_dictionaries({"cpu": cpu}, optional={"gpu": gpu})


def _access() -> Document:
    role = "arn:aws:iam::123456789012:role/"
    return {
        "ci": {"principal": f"{role}ci", "policy": "cluster-admin"},
        "people": {"principal": f"{role}people", "namespaces": ["training"]},
    }


# One mistake --------------------------------------------------------------------------------------

#: Values that are wrong wherever the key is, or is within the other.
WRONG: dict[str, tuple[Any, ...]] = {
    "account": ("1234", 123456789012),
    "backup_timeout": (59, 10801, "1h"),
    "bundle_size": ("2GB", "100Ti"),
    "capacity": ("cheap",),
    "cidr": ("10.0.0.0/24", "0.0.0.0/0", "10.0.0.0", ""),
    "data_stores": ("keep",),
    "endpoint": ("minio.example", "https://minio.example/path"),
    "gpus_per_node": (-1, 17),
    "image": ("trainer", "trainer:latest"),
    "instance_types": ([], ["t2.medium"], "m7i.xlarge"),
    "interval": (0, 1.5),
    "keep": (0, "3"),
    "kind": ("cephfs", None),
    "mount_path": ("model", "/tmp/x", "/dev"),
    "nat": ("two", True),
    "node_group": ("none",),
    "nodes": (0, 1025, "2"),
    "policy": ("root",),
    "port": (80, 65536),
    "principal": ("arn:aws:sts::123456789012:assumed-role/a/b", "ci"),
    "aws.region": ("useast1", "us-east-9"),
    "run": ("../other", "", "x" * 64),
    "run_as": (0,),
    "schedule": ("61 * * * *", "* * * * * *", "hourly", "0 0 * * 7"),
    "size": ("-10Gi", "10GB", "0", 10),
    "start": ("maybe",),
    "target": ("docker",),
    "throughput": (124,),
    "tools": ("tools", "tools:latest"),
    "url": ("file:///var/backups", "https://x"),
    "zone": ("us-east-1a", "use1-az3", "xyz1-az9"),
}
#: What cannot be left out, wherever it is.
NEEDED = ("account", "api_access", "aws", "backup_store", "cluster", "cluster_identifier",
          "instance_types", "iqn", "kind", "node", "node_groups", "owner", "path", "portal",
          "principal", "run", "server", "target", "training", "url", "volume",
          "workloads")  # fmt: skip
#: Mappings whose keys are the user's own.
FREE = [(key,) for key in ("env", "values", "tags", "workloads", "training", "access", "addons")]


class Mistake(NamedTuple):
    """A document that differs from a valid one in one place, and is wrong there."""

    path: tuple[str, ...]
    value: Any
    document: Document


def mistakes(document: Document) -> Iterator[Mistake]:
    """Every known way to make a valid document wrong in one place."""
    for path, value in _places(document):
        for wrong in _wrong_values(path, value):
            yield Mistake(path, wrong, _with(document, path, wrong))
        if isinstance(value, dict) and path[-1:] not in FREE:
            unknown = (*path, "colour")
            yield Mistake(unknown, "blue", _with(document, unknown, "blue"))


def _wrong_values(path: tuple[str, ...], value: Any) -> Iterator[Any]:
    if not path:
        return
    if path[0] == "workloads" and path[2:] == ("kind",):
        yield "cephfs"  # without a kind it is a training, whose keys are others
        return
    yield from WRONG.get(path[-1], ())
    yield from WRONG.get(".".join(path[-2:]), ())
    if path[-1] in NEEDED and path[-2:] != ("images", "training"):
        yield REMOVED
    if path[-1] in ("workloads", "training") and isinstance(value, dict):
        yield {}
        yield {"Not_a_name": next(iter(value.values()))}
    if isinstance(value, str | int | bool):
        yield {"colour": "blue"}
        yield ["blue"]


def _places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*path, key))


def _with(document: Document, path: tuple[str, ...], value: Any) -> Document:
    changed = deepcopy(document)
    target: Any = changed
    for key in path[:-1]:
        target = target[key]
    if value is REMOVED:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed

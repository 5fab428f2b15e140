"""The bucket and who may do what in it, compared with the calls that the data plane makes."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from holdfast.assets.add import add
from holdfast.assets.get import get, get_on_volume
from holdfast.assets.promote import promote
from holdfast.assets.versions import resolve
from holdfast.bundle import BundleWriter
from holdfast.copies.prune import delete_snapshot, prune
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.copies.verify_store import verify_snapshot
from holdfast.copies.writing import write_snapshot, writing
from holdfast.defaults import SHARED, Select
from holdfast.errors import StoreError
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage
from holdfast.retention import Policy
from holdfast.store.base import ObjectInfo
from holdfast.store.directory import DirectoryStore
from holdfast.store.documents import Snapshot
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from infra.aws.storage.store_policy import (
    Identity,
    Place,
    bucket_policy,
    identity_policy,
    publisher_policy,
    sweeper_policy,
)
from infra.plan.graph import Graph
from testkit.eks_factories import allows, denies, graph, policy_of, role
from testkit.factories import WITH_STORE, containers, environment, pod_specs
from testkit.stores import GRACE, age

OWNER = "holdfast/dev"
PLACE = Place("aws", "us-east-1", "backups", "holdfast/dev", "arn:aws:kms:us-east-1:1:key/k")
OBJECTS = "arn:aws:s3:::backups/holdfast/dev/"
CONNECTION = {"aws_SecureTransport": "true", "s3_TlsVersion": "1.3"}


class Recorded(DirectoryStore):
    """A store that writes down each call as S3 would authorise it."""

    calls: list[tuple[str, str, dict[str, str]]]

    def _note(self, action: str, key: str, **context: str) -> None:
        self.calls.append((action, key, context))
        if action == "s3:GetObject":  # of a missing key S3 asks whether the caller may list it
            self.calls.append(("s3:ListBucket", "", {"s3_prefix": f"{PLACE.prefix}/{key}"}))

    def get(self, key: str) -> bytes:
        self._note("s3:GetObject", key)
        return super().get(key)

    def stream(self, key: str) -> Iterator[bytes]:
        self._note("s3:GetObject", key)
        return super().stream(key)

    def head(self, key: str) -> ObjectInfo:
        self._note("s3:GetObject", key)
        return super().head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._note("s3:ListBucket", "", s3_prefix=f"{PLACE.prefix}/{prefix.rstrip('/')}/")
        return super().list(prefix)

    def put_small(
        self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        conditions = {}
        if if_absent:
            conditions["s3_if_none_match"] = "*"
            self._note("s3:GetObject", key)  # it settles lost answers by reading back
        if if_match:
            conditions["s3_if_match"] = if_match
        self._note("s3:PutObject", key, **conditions)
        self._note("s3:GetObject", key)
        return super().put_small(key, data, if_absent=if_absent, if_match=if_match)

    def put_file(self, key: str, chunks: Iterator[bytes | memoryview], size: int) -> None:
        self._note("s3:PutObject", key)
        self._note("s3:AbortMultipartUpload", key)
        super().put_file(key, chunks, size)

    def delete(self, keys: Iterable[str]) -> None:
        doomed = [*keys]
        for key in doomed:
            self._note("s3:DeleteObject", key)
        super().delete(doomed)

    def now(self) -> datetime:
        self._note("s3:PutObject", "CLOCK")
        self._note("s3:GetObject", "CLOCK")
        return super().now()


def calls_of(identity: Identity, tmp_path: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Do, for real, what the pods of one identity do; return the calls that it took."""
    root = tmp_path / "store"
    root.mkdir()
    plain = Catalog(DirectoryStore(root), OWNER)
    store = Recorded(root)
    store.calls = []
    mine = Catalog(store, OWNER)
    volume = Volume(tmp_path / "volume", "run")
    for step in (1, 2, 3):
        bundle(volume, step)

    if identity == "keeper":
        push(volume, mine, "gpt", select=Select.ALL)
        newest, *_, oldest = mine.snapshots("gpt")
        verify_snapshot(mine, newest)
        stage(volume, mine, newest)
        delete_snapshot(mine, "gpt", oldest.id)
        named = name_foreign(mine, plain, tmp_path)
        verify_snapshot(mine, named, record=False)
        delete_snapshot(mine, "gpt", named.id)
        push_shared(mine, plain, root, tmp_path)
        with pytest.raises(StoreError):  # too late: it takes its own snapshot back
            late_push(volume, mine)
        return store.calls
    push(volume, plain, "gpt", select=Select.ALL)
    if identity == "reader":  # only records of damage are read: the oldest data are damaged
        min(root.glob("data/**/weights")).write_bytes(b"x")
    for snapshot in plain.snapshots("gpt"):
        verify_snapshot(plain, snapshot)
    name_foreign(plain, plain, tmp_path)
    bundle(volume, 5)
    push(volume, plain, "gpt")
    if identity == "reader":
        plain.claim_sequence("gpt", "run")  # by a push that was killed: was it, or is it at work?
        pull_if_empty(Volume(tmp_path / "empty", "run"), mine, "gpt", Start.AUTO)
        for kind, workload in SHARED.items():
            plain.claim_sequence(workload, "reviews")
            promote(plain, resolve(plain, "reviews", kind), "production")
            get(mine, resolve(mine, "reviews@production", kind), tmp_path / "got" / kind)
        return store.calls
    keep_one = Policy(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0)
    for _ in range(5):  # dropped, tombstoned, deleted, forgotten
        age(root, 3 * GRACE)
        prune(mine, "gpt", keep_one, grace=GRACE)
    return store.calls


def calls_of_publisher(tmp_path: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Pull a checkpoint, add it as a model and a dataset, promote both, for real."""
    root = tmp_path / "store"
    root.mkdir()
    plain, store = Catalog(DirectoryStore(root), OWNER), Recorded(root)
    store.calls = []
    mine = Catalog(store, OWNER)
    volume = Volume(tmp_path / "volume", "run")
    bundle(volume, 1)
    push(volume, plain, "gpt")
    for kind, workload in SHARED.items():
        (root / "OWNER.json").unlink()  # it may be the first that uses the store
        plain.claim_sequence(workload, "reviews")
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "rows").write_bytes(kind.encode())
        added = add(mine, kind, folder, "reviews", "1").version
        promote(mine, added, "production")
        add(mine, kind, folder, "reviews", "2")
        (store_file,) = (root / added.ref.data).iterdir()
        store_file.write_bytes(b"x" * store_file.stat().st_size)
        verify_snapshot(plain, added.snapshot)
        add(mine, kind, folder, "reviews", "3")  # not by naming what is damaged
        promote(mine, resolve(mine, "reviews:3", kind), "production")
        get(mine, resolve(mine, "reviews@production", kind), tmp_path / "got" / kind)
    pull(mine.snapshots("gpt")[0], mine, tmp_path / "pulled")
    for kind in SHARED:  # which names the checkpoint's files instead of copying them
        add(mine, kind, tmp_path / "pulled/step-00000001", "reviews", "4")
    return store.calls


def calls_of_sweeper(tmp_path: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Prune datasets and models of which versions were deleted, and one was never finished."""
    root = tmp_path / "store"
    root.mkdir()
    plain, store = Catalog(DirectoryStore(root), OWNER), Recorded(root)
    store.calls = []
    mine = Catalog(store, OWNER)
    folder = tmp_path / "reviews"
    folder.mkdir()
    for kind, workload in SHARED.items():
        for version in ("1", "2"):
            (folder / "rows").write_bytes(version.encode() + kind.encode())
            added = add(plain, kind, folder, "reviews", version).version.snapshot
            verify_snapshot(plain, added)
            if version == "1":
                delete_snapshot(plain, workload, added.id)
                plain.store.put_small(f"verified/{workload}/{added.id}.json", b"{}")
                left = f"references/{workload}/{added.id}/{added.bundles[0].path}.json"
                plain.store.put_small(left, b"{}")  # by an add that was killed
    for _ in range(5):
        age(root, 3 * GRACE)
        (root / "OWNER.json").unlink(missing_ok=True)
        for workload in SHARED.values():
            prune(mine, workload, Policy(), grace=GRACE)
    for kind in SHARED:
        assert resolve(plain, "reviews:2", kind)
    assert not list(root.glob("tombstones/**/*.json")), "all that was deleted is forgotten"
    return store.calls


def bundle(volume: Volume, step: int) -> None:
    folder = volume.generation_path(1)
    folder.mkdir(parents=True, exist_ok=True)
    with BundleWriter(folder, f"step-{step:08d}", "checkpoint") as writer:
        (writer.path / "weights").write_bytes(b"w" * step)
        writer.commit({"run": "run", "generation": 1, "step": step})


def name_foreign(catalog: Catalog, adder: Catalog, tmp_path: Path) -> Snapshot:
    """A snapshot that names a dataset and a model."""
    refs = []
    for kind in SHARED:
        folder = tmp_path / f"reviews-{kind}"
        folder.mkdir()
        (folder / "rows").write_bytes(kind.encode())
        refs.append(add(adder, kind, folder, "reviews", "1").version.ref)
    with writing(catalog, "gpt"):
        began = catalog.store.now()
        return write_snapshot(catalog, "gpt", "run", 1, refs, began=began)


def push_shared(catalog: Catalog, others: Catalog, root: Path, tmp_path: Path) -> None:
    """Pushes of what is a dataset or model already: with its files, and with those of another
    workload; and one of each kind is known to be damaged."""
    theirs, mine = Volume(tmp_path / "theirs", "run"), Volume(tmp_path / "mine", "shared")
    for step, kind in enumerate(SHARED, start=50):
        bundle(theirs, step)
        push(theirs, others, "other")
        add(others, kind, theirs.bundles()[0].path, "of-others", "1")
        for number in (step, step + 10):
            bundle(mine, number)
        add(others, kind, mine.bundles()[0].path, "mine", "1")
        push(mine, catalog, "gpt", select=Select.ALL)
        folder = tmp_path / f"damaged-{kind}"
        folder.mkdir()
        (folder / "rows").write_bytes(kind.encode())
        damaged = add(others, kind, folder, "damaged", "1").version
        (root / damaged.ref.data / "rows").write_bytes(b"x")
        verify_snapshot(others, damaged.snapshot)
        bundle(mine, step + 20)
        bundle(theirs, step + 20)
        push(theirs, others, "other")
        add(others, kind, theirs.bundles()[0].path, "of-others", "2")
        push(mine, catalog, "gpt")


def late_push(volume: Volume, catalog: Catalog) -> None:
    """A push whose snapshot is written after half of the grace period."""
    bundle(volume, 4)
    push(volume, catalog, "gpt", grace=timedelta(microseconds=2))


@pytest.fixture(params=["reader", "keeper", "pruner"])
def identity(request: pytest.FixtureRequest) -> Identity:
    return request.param


def arn(key: str) -> str:
    return f"{OBJECTS}{key}" if key else PLACE.bucket_arn


def test_each_identity_may_do_all_that_its_verbs_do(identity: Identity, tmp_path: Path):
    policy, bucket = identity_policy(identity, "gpt", PLACE), bucket_policy(PLACE)

    made = calls_of(identity, tmp_path)
    refused = [
        (action, key)
        for action, key, context in made
        if not allows(policy, action, arn(key), **context)
        or denies(bucket, action, arn(key), **CONNECTION, **context)
    ]
    assert made
    assert refused == []


def test_no_identity_may_do_more_than_its_verbs_do(identity: Identity, tmp_path: Path):
    """Each action on each kind of key that is granted is one that was used."""
    made = {(action, key) for action, key, _ in calls_of(identity, tmp_path)}
    for statement in identity_policy(identity, "gpt", PLACE)["Statement"]:
        if statement["Action"] in ("s3:ListBucket",) or statement["Sid"] == "Key":
            continue
        for pattern in statement["Resource"]:
            used = [k for a, k in made if a == statement["Action"] and fnmatchcase(arn(k), pattern)]
            assert used, (identity, statement["Action"], pattern)


SHARED_POLICIES = {
    "publisher": (publisher_policy(["gpt"], PLACE), calls_of_publisher),
    "sweeper": (sweeper_policy(PLACE), calls_of_sweeper),
}


@pytest.mark.parametrize("who", SHARED_POLICIES)
def test_publisher_and_sweeper_may_do_what_their_verbs_do_and_no_more(who: str, tmp_path: Path):
    policy, do = SHARED_POLICIES[who]
    made, bucket = do(tmp_path), bucket_policy(PLACE)

    refused = {
        (action, key)
        for action, key, context in made
        if not allows(policy, action, arn(key), **context)
        or denies(bucket, action, arn(key), **CONNECTION, **context)
    }
    assert refused == set()
    used = {(action, arn(key)) for action, key, _ in made}
    for statement in policy["Statement"]:
        if statement["Sid"] not in ("List", "Key"):
            for pattern in statement["Resource"]:
                keys = [k for action, k in used if action == statement["Action"]]
                assert any(fnmatchcase(k, pattern) for k in keys), (statement["Sid"], pattern)


@pytest.mark.parametrize(
    ("who", "action", "key"),
    [
        ("publisher", "s3:DeleteObject", "snapshots/models/1.json"),
        ("publisher", "s3:DeleteObject", "data/models/content/x"),
        ("publisher", "s3:PutObject", "snapshots/gpt/1.json"),
        ("publisher", "s3:PutObject", "data/pipeline/tracking/x"),
        ("publisher", "s3:PutObject", "tombstones/models/x.json"),
        ("publisher", "s3:GetObject", "data/pipeline/tracking/gen-0001/database-1/x/database.dump"),
        ("sweeper", "s3:DeleteObject", "snapshots/models/1.json"),
        ("sweeper", "s3:DeleteObject", "aliases/models/churn/production/0000000001.json"),
        ("sweeper", "s3:DeleteObject", "data/gpt/run/x"),
        ("sweeper", "s3:PutObject", "data/models/content/x"),
        ("sweeper", "s3:GetObject", "data/models/content/x"),
    ],
)
def test_a_publisher_deletes_nothing_and_a_sweeper_no_version(who: str, action: str, key: str):
    assert not allows(SHARED_POLICIES[who][0], action, arn(key))


def test_publisher_and_sweeper_have_their_roles_in_the_cluster(dev: Graph):
    place = Place("aws", "us-east-1", "holdfast-dev-backups-123456789012", "holdfast/dev",
                  "arn:aws:kms:us-east-1:123456789012:key/keys-store")  # fmt: skip
    wanted = {
        "training-publisher": ("holdfast-publisher", publisher_policy(["gpt"], place)),
        "assets-sweeper": ("holdfast-prune", sweeper_policy(place)),
    }
    for name, (account, policy) in wanted.items():
        (found,) = dev.find("aws:eks/podIdentityAssociation:PodIdentityAssociation", name)
        assert (found.inputs["namespace"], found.inputs["serviceAccount"]) == ("training", account)
        assert dev.find("ServiceAccount", account)
        assert policy_of(role(name, dev), dev) == policy


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("s3:PutObject", "snapshots/gpt/1.json"),
        ("s3:PutObject", "data/gpt/run/x"),
        ("s3:PutObject", "OWNER.json"),
        ("s3:DeleteObject", "snapshots/gpt/1.json"),
        ("s3:DeleteObject", "data/gpt/run/x"),
        ("s3:GetObject", "snapshots/other/1.json"),
        ("s3:GetObject", "data/other/run/x"),
    ],
)
def test_user_code_can_neither_write_nor_delete_nor_see_another_workloads_backups(action, key):
    assert not allows(identity_policy("reader", "gpt", PLACE), action, arn(key))


def test_only_an_application_with_a_model_may_read_files_of_others(identity: Identity):
    reads = "s3:GetObject", arn("data/other/run/x")
    served = identity_policy(identity, "gpt", PLACE, serves=True)

    assert allows(served, *reads) is (identity != "pruner")
    assert not allows(identity_policy(identity, "gpt", PLACE), *reads)
    for place in ("snapshots", "manifests", "verified"):
        assert not allows(served, "s3:GetObject", arn(f"{place}/other/1.json"))


def test_an_application_serves_a_model_that_is_a_checkpoint_of_another_workload(tmp_path: Path):
    root = tmp_path / "store"
    root.mkdir()
    plain, store = Catalog(DirectoryStore(root), OWNER), Recorded(root)
    theirs, volume = Volume(tmp_path / "theirs", "run"), Volume(tmp_path / "mine", "run", "model")
    bundle(theirs, 1)
    push(theirs, plain, "other")
    add(plain, "model", theirs.bundles()[0].path, "churn", "1")

    for identity in ("reader", "keeper"):
        store.calls = []
        mine = Catalog(store, OWNER)
        if identity == "reader":
            get_on_volume(mine, "churn:1", volume)
        else:
            push(volume, mine, "serving")
            (snapshot,) = mine.snapshots("serving")
            verify_snapshot(mine, snapshot)
            stage(volume, mine, snapshot)
        policy = identity_policy(identity, "serving", PLACE, serves=True)
        refused = [key for action, key, context in store.calls
                   if not allows(policy, action, arn(key), **context)]  # fmt: skip
        assert store.calls and refused == []


@pytest.mark.parametrize(
    ("context", "allowed"),
    [
        ({"s3_prefix": "holdfast/dev/"}, True),
        ({"s3_prefix": "holdfast/dev/snapshots/gpt/"}, True),
        ({"s3_prefix": "holdfast/dev/OWNER.json"}, True),
        ({}, False),
        ({"s3_prefix": ""}, False),
        ({"s3_prefix": "holdfast/"}, False),
        ({"s3_prefix": "holdfast/dev"}, False),  # which begins holdfast/development, too
        ({"s3_prefix": "holdfast/development/"}, False),
    ],
)
def test_each_identity_lists_its_stacks_prefix_and_nothing_else_in_the_bucket(
    identity: Identity, context: dict[str, str], allowed: bool
):
    policy = identity_policy(identity, "gpt", PLACE)

    assert allows(policy, "s3:ListBucket", PLACE.bucket_arn, **context) is allowed


def test_no_identity_can_remove_a_version_or_weaken_the_bucket(identity: Identity):
    policy = identity_policy(identity, "gpt", PLACE)

    for action in ("DeleteObjectVersion", "PutBucketPolicy", "PutBucketVersioning",
                   "PutLifecycleConfiguration", "BypassGovernanceRetention"):  # fmt: skip
        assert not allows(policy, f"s3:{action}", arn("data/gpt/run/x")), action
        assert not allows(policy, f"s3:{action}", PLACE.bucket_arn), action


def test_a_push_may_not_delete_data_and_a_prune_may_not_write_it():
    keeper, pruner = (identity_policy(i, "gpt", PLACE) for i in ("keeper", "pruner"))

    for key in ("data/gpt/run/x", "manifests/gpt/run/x.json"):
        assert not allows(keeper, "s3:DeleteObject", arn(key))
        assert not allows(pruner, "s3:PutObject", arn(key))


@pytest.mark.parametrize("key", ["snapshots/gpt/1.json", "manifests/gpt/a.json",
                                 "sequences/gpt/1.json"])  # fmt: skip
def test_what_is_written_once_can_only_be_created(key: str):
    policy = bucket_policy(PLACE)

    assert denies(policy, "s3:PutObject", arn(key), **CONNECTION)
    assert denies(policy, "s3:PutObject", arn(key), s3_if_match="etag", **CONNECTION)
    assert not denies(policy, "s3:PutObject", arn(key), s3_if_none_match="*", **CONNECTION)


@pytest.mark.parametrize("key", ["OWNER.json", "locks/gpt.json"])
def test_owner_and_locks_are_only_replaced_by_who_has_seen_them(key: str):
    policy = bucket_policy(PLACE)

    assert denies(policy, "s3:PutObject", arn(key), **CONNECTION)
    assert not denies(policy, "s3:PutObject", arn(key), s3_if_match="etag", **CONNECTION)
    assert not denies(policy, "s3:PutObject", arn(key), s3_if_none_match="*", **CONNECTION)


def test_data_need_no_precondition_but_tls_and_the_buckets_own_key():
    policy, data = bucket_policy(PLACE), arn("data/gpt/run/x")
    kind, key = "s3_x_amz_server_side_encryption", "s3_x_amz_server_side_encryption_aws_kms_key_id"

    assert not denies(policy, "s3:PutObject", data, **CONNECTION)
    assert denies(policy, "s3:GetObject", data, **{**CONNECTION, "aws_SecureTransport": "false"})
    assert denies(policy, "s3:GetObject", data, **{**CONNECTION, "s3_TlsVersion": "1.1"})
    assert denies(policy, "s3:PutObject", data, **CONNECTION, **{kind: "AES256"})
    ours = {**CONNECTION, kind: "aws:kms"}
    assert not denies(policy, "s3:PutObject", data, **ours)
    assert not denies(policy, "s3:PutObject", data, **ours, **{key: str(PLACE.key_arn)})
    assert denies(policy, "s3:PutObject", data, **ours, **{key: "arn:aws:kms:us-east-1:2:key/x"})


def test_the_bucket_is_versioned_private_and_aborts_what_was_never_finished(eks: Graph):
    def one(kind: str, name: str) -> dict:
        (found,) = eks.find(f"aws:s3/{kind[0].lower()}{kind[1:]}:{kind}", name)
        return found.inputs

    assert one("BucketVersioning", "store-versions")["versioningConfiguration"] == {
        "status": "Enabled"
    }
    (rule,) = one("BucketServerSideEncryptionConfiguration", "store-encryption")["rules"]
    assert rule["bucketKeyEnabled"] is True
    assert rule["applyServerSideEncryptionByDefault"]["kmsMasterKeyId"].endswith("keys-store")
    rules = {r["id"]: r for r in one("BucketLifecycleConfiguration", "store-lifecycle")["rules"]}
    assert rules["uploads-that-never-ended"]["abortIncompleteMultipartUpload"] == {
        "daysAfterInitiation": 7
    }
    assert rules["old-versions"]["noncurrentVersionExpiration"]["noncurrentDays"] >= 30
    for name in ("store", "store-access-logs"):
        block = one("BucketPublicAccessBlock", f"{name}-private")
        assert {k for k, v in block.items() if v is True} == {
            "blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets",
        }  # fmt: skip
        assert one("BucketOwnershipControls", f"{name}-ownership")["rule"] == {
            "objectOwnership": "BucketOwnerEnforced"
        }
    logging = one("BucketLogging", "store-logging")
    assert logging["targetBucket"] != logging["bucket"]


def test_object_lock_is_a_setting(dev: Graph, prod: Graph):
    kind = "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration"
    (lock,) = prod.find(kind)

    assert lock.inputs["rule"]["defaultRetention"] == {"mode": "GOVERNANCE", "days": 30}
    assert dev.find(kind) == []
    for declared, locked in ((dev, False), (prod, True)):
        (bucket,) = declared.find("aws:s3/bucket:Bucket", "store-bucket")
        assert bucket.inputs["objectLockEnabled"] is locked


def test_each_service_account_of_a_workload_gets_its_own_identity(dev: Graph):
    pods = dict(pod_specs(dev))
    accounts: dict[Identity, str] = {
        "reader": pods["Job gpt"]["serviceAccountName"],
        "keeper": pods["Blueprint checkpoints push"]["serviceAccountName"].replace(
            "{{ .PVC.Name }}", "checkpoints-pvc"
        ),
        "pruner": pods["CronJob gpt-backup"]["serviceAccountName"],
    }
    declared = {r.inputs["metadata"]["name"] for r in dev.find("ServiceAccount")}

    assert len(set(accounts.values())) == 3
    for identity, account in accounts.items():
        (association,) = dev.find("aws:eks/podIdentityAssociation:PodIdentityAssociation",
                                  f"gpt-{identity}")  # fmt: skip
        assert association.inputs["serviceAccount"] == account
        assert association.inputs["namespace"] == "training"
        assert account in declared
        own = role(f"gpt-{identity}", dev)
        assert association.inputs["roleArn"].endswith(own.name)
        place = Place("aws", "us-east-1", "holdfast-dev-backups-123456789012", "holdfast/dev",
                      "arn:aws:kms:us-east-1:123456789012:key/keys-store")  # fmt: skip
        assert policy_of(own, dev) == identity_policy(identity, "gpt", place)


def test_the_store_of_a_lost_stack_is_taken_up_without_a_bucket_of_its_own():
    declared = graph(
        backup_store={
            "existing": {"url": "s3://old-backups/team"},
            "prefix": "holdfast/old",
            "owner": "holdfast/old",
        }
    )
    (config,) = declared.find("ConfigMap", "holdfast-checkpoints-pvc")
    keeper = policy_of(role("gpt-keeper", declared), declared)

    assert declared.find("aws:s3/bucket:Bucket") == []
    assert config.inputs["data"]["HOLDFAST_STORE"] == "s3://old-backups/team/holdfast/old"
    assert config.inputs["data"]["HOLDFAST_OWNER"] == "holdfast/old"
    key = "arn:aws:s3:::old-backups/team/holdfast/old/data/gpt/x"
    assert allows(keeper, "s3:PutObject", key)
    assert declared.outputs["backup_bucket"] == "old-backups"


def test_a_bucket_in_another_region_is_named_in_each_container_that_uses_it():
    """EKS' Pod Identity webhook looks at a container's own variables only, and adds the cluster's
    AWS_REGION to those that have none; it would hide the ConfigMap's."""
    bucket = {"url": "s3://old-backups", "region": "eu-west-1"}
    declared = graph(backup_store={"existing": bucket})
    with_a_region = {
        (name, container["name"]): environment(container)["AWS_REGION"]
        for name, pod in pod_specs(declared)
        for container in containers(pod)
        if "AWS_REGION" in environment(container)
    }
    keeper = policy_of(role("gpt-keeper", declared), declared)
    text = json.dumps(policy_of(role("gpt-reader", declared), declared))

    assert with_a_region == dict.fromkeys(WITH_STORE, "eu-west-1")
    assert allows(keeper, "s3:PutObject", "arn:aws:s3:::old-backups/holdfast/test/data/gpt/x")
    assert "kms" not in text


def test_the_key_of_a_bucket_elsewhere_is_used_through_s3_of_its_region():
    key = "arn:aws:kms:eu-west-1:123456789012:key/abc"
    bucket = {"url": "s3://old-backups", "region": "eu-west-1", "key_arn": key}
    declared = graph(backup_store={"existing": bucket})
    keeper = policy_of(role("gpt-keeper", declared), declared)
    context = {"kms_EncryptionContext_aws_s3_arn": "arn:aws:s3:::old-backups"}

    for region, allowed in (("eu-west-1", True), ("us-east-1", False)):
        service = {"kms_ViaService": f"s3.{region}.amazonaws.com"}
        assert allows(keeper, "kms:GenerateDataKey", key, **service, **context) is allowed


def test_repositories_keep_tags_where_they_are_and_scan_what_is_pushed(eks: Graph):
    for repository in eks.find("aws:ecr/repository:Repository"):
        assert repository.inputs["imageTagMutability"] == "IMMUTABLE"
        assert repository.inputs["imageScanningConfiguration"] == {"scanOnPush": True}
    for policy in eks.find("aws:ecr/lifecyclePolicy:LifecyclePolicy"):
        assert len(json.loads(policy.inputs["policy"])["rules"]) == 2


@pytest.mark.parametrize("context", ["", "/holdfast/test/data/gpt/x"])
def test_a_bucket_can_be_encrypted_with_or_without_a_bucket_key(context: str):
    """The encryption context is the bucket with a bucket key, and the object without one."""
    key_arn = "arn:aws:kms:us-east-1:123456789012:key/x"
    existing = {"url": "s3://company-backups", "key_arn": key_arn}
    declared = graph(backup_store={"existing": existing})
    keeper = policy_of(role("gpt-keeper", declared), declared)

    def may(arn: str) -> bool:
        return allows(
            keeper, "kms:GenerateDataKey", key_arn,
            kms_ViaService="s3.us-east-1.amazonaws.com",
            kms_EncryptionContext_aws_s3_arn=arn,
        )  # fmt: skip

    assert may(f"arn:aws:s3:::company-backups{context}")
    assert not may("arn:aws:s3:::company-backups/other/stack/data")
    assert not may("arn:aws:s3:::others")

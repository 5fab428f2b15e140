"""Who may do what in the backup store, from the calls that the data plane makes.

Three identities for each workload, each a service account of its own, and none shared:

- ``reader``: the training pod. Its recover container refills a lost volume; user code shares the
  pod's identity, so it can read this workload's backups, and the datasets and models of the stack,
  and can neither write nor delete. An application with a model can also read the files of all
  workloads, though not what they are: a model may be a checkpoint, whose files are stored once.
- ``keeper``: Kanister's tasks push, verify and drop snapshots. It cannot delete data or manifests.
- ``pruner``: the schedule's retention. It deletes what no snapshot names and cannot write data.

And two for the datasets and models that a stack's workloads share:

- ``publisher``: Jobs of people add versions and move aliases. They read what any training or
  application keeps, and not the pipeline's state, which has users in it; they delete nothing. So an
  add that has to take its own version back cannot: it fails, and a person deletes that version.
- ``sweeper``: deletes data that no version and no snapshot names, and never a version.

No identity may delete a version of an object, so whatever one of them does can be undone while
versions are kept.

All may list below their stack's prefix, and nowhere else. S3 answers a GET or HEAD of a key that is
not there with 404 only to those who may list, else with 403 (S3 API reference, HeadObject); it asks
whether they may with ``s3:prefix`` set to the key itself. The reference does not say the latter: it
is what Ceph found when it copied S3 (ceph/ceph pull request 68577, with a test in ceph/s3-tests),
and Kopia (kopia/kopia pull request 3072). So ``StringLikeIfExists`` is not needed, which would also
allow a listing without a prefix: of the whole bucket. Should S3 answer 403 all the same, the data
plane looks whether the listing has the key before it calls itself forbidden (`holdfast.store.s3`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Statement = dict[str, Any]
Identity = Literal["reader", "keeper", "pruner"]

_SHARED = ("datasets", "models")
#: What a stack keeps for all its workloads; every training and application may get it.
SHARED = tuple(
    f"{place}/{workload}{rest}"
    for workload in _SHARED
    for place, rest in (
        ("locks", ".json"),
        ("snapshots", "/*"),
        ("sequences", "/*"),
        ("manifests", "/*"),
        ("data", "/*"),
        ("aliases", "/*"),
    )
)
#: Key patterns below the prefix; ``{w}`` is the workload.
READS: dict[Identity, tuple[str, ...]] = {
    "reader": (
        "OWNER.json",
        "locks/{w}.json",
        "snapshots/{w}/*",
        "sequences/{w}/*",
        "manifests/{w}/*",
        "data/{w}/*",
        "verified/{w}/*",
        *SHARED,
    ),
    "keeper": (
        "OWNER.json",
        "CLOCK",
        "locks/{w}.json",
        "snapshots/{w}/*",
        "sequences/{w}/*",
        "manifests/{w}/*",
        "data/{w}/*",
        "verified/{w}/*",
        "dropped/{w}.json",
        "references/{w}/*",
        # A snapshot may name a model or dataset, or its files.
        *(
            f"{place}/{shared}/*"
            for place in ("snapshots", "manifests", "data", "verified")
            for shared in _SHARED
        ),
    ),
    "pruner": (
        "OWNER.json",
        "CLOCK",
        "locks/{w}.json",
        "snapshots/{w}/*",
        "sequences/{w}/*",
        "verified/{w}/*",
        "tombstones/{w}/*",
        "dropped/{w}.json",
    ),
}
WRITES: dict[Identity, tuple[str, ...]] = {
    "reader": (),
    "keeper": (
        "OWNER.json",
        "CLOCK",
        "locks/{w}.json",
        "snapshots/{w}/*",
        "sequences/{w}/*",
        "manifests/{w}/*",
        "data/{w}/*",
        "verified/{w}/*",
        "dropped/{w}.json",
        "references/{w}/*",
    ),
    "pruner": (
        "OWNER.json",
        "CLOCK",
        "locks/{w}.json",
        "tombstones/{w}/*",
        "dropped/{w}.json",
    ),
}
DELETES: dict[Identity, tuple[str, ...]] = {
    "reader": (),
    # A push takes its own snapshot back when it came too late; a person drops one.
    "keeper": ("snapshots/{w}/*", "verified/{w}/*", "references/{w}/*"),
    "pruner": (
        "snapshots/{w}/*",
        "verified/{w}/*",
        "manifests/{w}/*",
        "data/{w}/*",
        "sequences/{w}/*",
        "tombstones/{w}/*",
        "references/{w}/*",
    ),
}

#: Of the publisher, beside the data of those that it may read.
PUBLISHER_READS = (
    "OWNER.json",
    "CLOCK",
    *(f"locks/{shared}.json" for shared in _SHARED),
    *(f"references/{shared}/*" for shared in _SHARED),
    "snapshots/*",
    "sequences/*",
    "manifests/*",
    "verified/*",
    "aliases/*",
)
PUBLISHER_WRITES = (
    "OWNER.json",
    "CLOCK",
    "locks/{w}.json",
    "snapshots/{w}/*",
    "sequences/{w}/*",
    "manifests/{w}/*",
    "data/{w}/*",
    "references/{w}/*",
    "aliases/{w}/*",
)
#: As a pruner's, but that it drops no snapshot: each is the only one of its version.
SWEEPER_WRITES = ("OWNER.json", "CLOCK", "locks/{w}.json", "tombstones/{w}/*")
SWEEPER_DELETES = tuple(each for each in DELETES["pruner"] if not each.startswith("snapshots/"))

#: What an application reads besides: a model of the store may be the checkpoint of any workload.
FILES = ("data/*",)
#: What the pipeline's backup reads of all workloads: documents, and no data.
OF_OTHERS = ("snapshots/*", "sequences/*", "manifests/*", "verified/*", "tombstones/*")
#: Documents that are created once and never replaced.
WRITE_ONCE = ("snapshots/*", "manifests/*", "sequences/*", "references/*", "aliases/*")
#: Documents that are created once, or replaced by someone who has seen what is there.
WRITE_SEEN = ("OWNER.json", "locks/*", "dropped/*")


@dataclass(frozen=True)
class Place:
    """Where in S3 a stack's backups are, and under which key they are encrypted."""

    partition: str
    region: str
    bucket: str
    prefix: str
    key_arn: str | None

    @property
    def bucket_arn(self) -> str:
        return f"arn:{self.partition}:s3:::{self.bucket}"

    def arns(self, patterns: Iterable[str], workload: str = "") -> list[str]:
        """Object ARNs of these patterns."""
        keys = (pattern.format(w=workload) for pattern in patterns)
        return [f"{self.bucket_arn}/{self.prefix}/{key}" for key in keys]


def identity_policy(
    identity: Identity, workload: str, place: Place, *, serves: bool = False
) -> dict[str, Any]:
    """What one identity of one workload may do; ``serves``: it is given a model of the store."""
    reads = READS[identity] + (FILES if serves and identity != "pruner" else ())
    return _document(
        place,
        reads=place.arns(reads, workload),
        writes=place.arns(WRITES[identity], workload),
        uploads=place.arns(("data/{w}/*",), workload) if identity == "keeper" else [],
        deletes=place.arns(DELETES[identity], workload),
    )


def publisher_policy(workloads: Iterable[str], place: Place) -> dict[str, Any]:
    """What Jobs that add and promote datasets and models may do.

    Args:
        workloads: trainings and applications, from whose bundles models are made.
    """
    data = [f"data/{workload}/*" for workload in (*workloads, *_SHARED)]
    return _document(
        place,
        reads=place.arns((*PUBLISHER_READS, *data)),
        writes=_of_shared(place, PUBLISHER_WRITES),
        uploads=_of_shared(place, ("data/{w}/*",)),
        deletes=[],
    )


def sweeper_policy(place: Place) -> dict[str, Any]:
    """What removes data of datasets and models that nothing names any more."""
    return _document(
        place,
        reads=_of_shared(place, (each for each in READS["pruner"] if "dropped" not in each)),
        writes=_of_shared(place, SWEEPER_WRITES),
        uploads=[],
        deletes=_of_shared(place, SWEEPER_DELETES),
    )


def _of_shared(place: Place, patterns: Iterable[str]) -> list[str]:
    """Object ARNs of these patterns for datasets and for models."""
    patterns = [*patterns]
    found = [arn for workload in _SHARED for arn in place.arns(patterns, workload)]
    return list(dict.fromkeys(found))


def _document(
    place: Place,
    *,
    reads: Sequence[str],
    writes: Sequence[str],
    uploads: Sequence[str],
    deletes: Sequence[str],
) -> dict[str, Any]:
    """List below the prefix, and what is named; ``uploads``: large files that may be given up."""
    statements: list[Statement] = [
        {
            "Sid": "List",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": place.bucket_arn,
            "Condition": {"StringLike": {"s3:prefix": f"{place.prefix}/*"}},
        },
    ]
    for sid, action, resources in (
        ("Read", "s3:GetObject", reads),
        ("Write", "s3:PutObject", writes),
        ("GiveUpAnUpload", "s3:AbortMultipartUpload", uploads),
        ("Delete", "s3:DeleteObject", deletes),
    ):
        if resources:
            statements.append(
                {"Sid": sid, "Effect": "Allow", "Action": action, "Resource": [*resources]}
            )
    if place.key_arn is not None:
        actions = ["kms:Decrypt", *(["kms:GenerateDataKey"] if writes else [])]
        statements.append(
            {
                "Sid": "Key",
                "Effect": "Allow",
                "Action": actions,
                "Resource": place.key_arn,
                "Condition": {
                    "StringEquals": {"kms:ViaService": f"s3.{place.region}.amazonaws.com"},
                    # The bucket with a bucket key, which our own bucket has, else the object (S3
                    # user guide, "Using SSE-KMS", encryption context).
                    "StringLike": {
                        "kms:EncryptionContext:aws:s3:arn": [
                            place.bucket_arn,
                            f"{place.bucket_arn}/{place.prefix}/*",
                        ],
                    },
                },
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def pipeline_policy(identity: Identity, workload: str, place: Place) -> dict[str, Any]:
    """What one identity of the pipeline may do: as a workload's, and a backup reads what the others
    keep, without their data, since its snapshot names that too."""
    document = identity_policy(identity, workload, place)
    if identity == "keeper":
        document["Statement"].append(
            {
                "Sid": "ReadWhatOthersKeep",
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": place.arns(OF_OTHERS),
            }
        )
    return document


def bucket_policy(place: Place) -> dict[str, Any]:
    """What no one may do with the backup bucket, whatever else they are allowed."""
    objects = f"{place.bucket_arn}/{place.prefix}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            *_private(place),
            # Also refuses multipart uploads of these, which carry no such header: they are small.
            _deny(
                "CreateOnce",
                "s3:PutObject",
                [f"{objects}/{key}" for key in WRITE_ONCE],
                {"Null": {"s3:if-none-match": "true"}},
            ),
            _deny(
                "ReplaceOnlyWhatWasSeen",
                "s3:PutObject",
                [f"{objects}/{key}" for key in WRITE_SEEN],
                {"Null": {"s3:if-none-match": "true", "s3:if-match": "true"}},
            ),
        ],
    }


def private_bucket_policy(place: Place) -> dict[str, Any]:
    """What no one may do with a bucket of the stack's: reach it without TLS, or encrypt by another
    key."""
    return {"Version": "2012-10-17", "Statement": _private(place)}


def _deny(sid: str, action: Any, resource: Any, condition: dict[str, Any]) -> Statement:
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resource,
        "Condition": condition,
    }


def _private(place: Place) -> list[Statement]:
    everything = [place.bucket_arn, f"{place.bucket_arn}/*"]
    objects = f"{place.bucket_arn}/*"
    return [
        _deny("OnlyTls", "s3:*", everything, {"Bool": {"aws:SecureTransport": "false"}}),
        _deny("OnlyTls12", "s3:*", everything, {"NumericLessThan": {"s3:TlsVersion": "1.2"}}),
        # Without these headers the bucket's default encryption applies, which is right; a
        # negated comparison alone would refuse that, hence the test that the header is there.
        _deny(
            "OnlyKms",
            "s3:PutObject",
            objects,
            {
                "Null": {"s3:x-amz-server-side-encryption": "false"},
                "StringNotEquals": {"s3:x-amz-server-side-encryption": "aws:kms"},
            },
        ),
        _deny(
            "OnlyOurKey",
            "s3:PutObject",
            objects,
            {
                "Null": {"s3:x-amz-server-side-encryption-aws-kms-key-id": "false"},
                "ArnNotEquals": {"s3:x-amz-server-side-encryption-aws-kms-key-id": place.key_arn},
            },
        ),
    ]

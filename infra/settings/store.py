"""The backup store: copies of bundles, and snapshots, outside the workload's volume."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from infra.settings.bucket import CreatedStore
from infra.settings.fields import Model, Name, check_region
from infra.settings.volumes import Volume


def _url(value: str) -> str:
    if value.startswith("file:"):
        raise ValueError(
            f"{value} would be the disk of one pod, lost with the pod: "
            "use backup_store.volume, which every pod mounts"
        )
    if re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=-]+)*", value) is None:
        raise ValueError(f"{value!r} is not a store: write s3://bucket or s3://bucket/prefix")
    return value


def _endpoint(value: str) -> str:
    if re.fullmatch(r"https?://[\w.-]+(:\d+)?", value) is None:
        raise ValueError(f"{value!r} is not an endpoint: write https://host or https://host:port")
    return value


def _prefix(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", value) is None:
        raise ValueError(
            f"{value!r} is not a prefix: write names joined by '/', such as holdfast/dev"
        )
    return value


class ExistingStore(Model):
    """A bucket that is there already. A new stack takes up the store of a lost one this way."""

    url: Annotated[str, AfterValidator(_url)]
    """The bucket, ``s3://bucket``, with a path inside it if wanted."""
    region: str | None = Field(default=None, min_length=1)
    """The bucket's region. Default: the stack's own (target eks), or what the pods' environment
    says. From another region backups travel through the NAT gateway and cost by the GB."""
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """An S3 server that is not AWS, such as ``https://minio.example:9000``."""
    credentials_secret: Name | None = None
    """A Secret in each workload's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    Default: the pods' own identity."""
    key_arn: str | None = Field(
        default=None, pattern=r"^arn:aws[\w-]*:kms:[\w-]+:\d{12}:key/[\w-]+$"
    )
    """The KMS key that encrypts the bucket, which the pods' roles must be allowed to use."""

    @model_validator(mode="after")
    def _region_exists(self) -> "ExistingStore":
        if self.endpoint is None and self.region is not None:
            check_region(self.region)
        return self


class BackupStore(Model):
    """Exactly one of ``create``, ``existing`` and ``volume``."""

    create: CreatedStore | None = None
    """A bucket that the stack makes, on target eks."""
    existing: ExistingStore | None = None
    """An S3 bucket that is there already."""
    volume: Volume | None = None
    """A volume of its own, mounted by every pod that reads or writes backups."""
    prefix: Annotated[str, AfterValidator(_prefix)] | None = None
    """The path inside the store. Default: ``<project>/<stack>``."""
    owner: Annotated[str, AfterValidator(_prefix)] | None = None
    """Whose store this is, ``<project>/<stack>``; another owner's is refused. Default: this
    stack. Name a lost stack here, and its prefix above, to go on with its backups."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "BackupStore":
        given = [
            name for name in ("create", "existing", "volume") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} {'are' if given else 'is'} given: "
                "give exactly one of create, existing and volume"
            )
        return self

    @property
    def bucket(self) -> str | None:
        """The bucket's name; None where the store is a volume."""
        if self.create is not None:
            return self.create.name
        return self.existing.url.split("/")[2] if self.existing is not None else None


class Retention(Model):
    """Which snapshots stay: the union of these rules, pinned ones, the last verified."""

    keep_last: int = Field(default=5, ge=1, le=1000)
    """The newest N snapshots."""
    hourly: int = Field(default=0, ge=0, le=1000)
    """One snapshot for each of the last N hours that have one."""
    daily: int = Field(default=7, ge=0, le=1000)
    """One for each of the last N days."""
    weekly: int = Field(default=4, ge=0, le=1000)
    """One for each of the last N weeks."""
    monthly: int = Field(default=6, ge=0, le=1000)
    """One for each of the last N months."""

"""The pipeline around the training: experiment tracking by MLflow, on PostgreSQL.

The database holds runs, metrics and the model registry; the artifact store holds files. Neither is
of use without the other, so both are settings of one server: the stack's own, or someone else's.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from infra.settings.bucket import CreatedStore
from infra.settings.fields import AbsolutePath, Cpu, Cron, Image, Model, Name, Size
from infra.settings.protection import RESERVED_PATHS, Schedule
from infra.settings.store import ExistingStore
from infra.settings.volumes import Volume

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _host(value: str) -> str:
    if _HOST.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a host name: write one such as database.example, without a port"
        )
    return value


HostName = Annotated[str, AfterValidator(_host)]
#: Labels of pods that someone else declares.
Labels = dict[
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=316)],
    Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]*$", max_length=63)],
]


class TrackingResources(Model):
    """What a container of the tracking server asks for, and may use at most."""

    cpu: Cpu = "500m"
    """Cores asked for; there is no limit, so that a busy hour is not throttled."""
    memory: Size = "1Gi"
    """Memory; also the limit."""


class PostgresServer(Model):
    """A PostgreSQL that the stack runs: one pod on a volume of its own."""

    kind: Literal["postgresql"]
    """Selects this kind."""
    image: Image = "postgres:16.14-bookworm"
    """The official image, or one that takes the same environment. Another major version does not
    read the old one's files: take a backup, and restore it into a new volume."""
    volume: Volume
    """Where the database lies."""
    resources: TrackingResources = TrackingResources()
    """CPU and memory."""


class DatabaseAddress(Model):
    """Where a PostgreSQL is, and how it is reached."""

    host: HostName
    """Its host name or address."""
    port: int = Field(default=5432, ge=1, le=65535)
    """Its port."""
    name: str = Field(default="mlflow", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """The database. It must exist, and belong to the user."""
    secret: Name
    """A Secret in the tracking server's namespace with the keys ``username`` and ``password``."""
    tls: Literal["disable", "require", "verify-full"] = "verify-full"
    """``verify-full``: the server's certificate must be known to the image and name the host;
    ``require``: any certificate will do; ``disable``: none, for a server in the same cluster."""


class ExistingDatabase(DatabaseAddress):
    """A PostgreSQL that is there already, such as RDS."""

    kind: Literal["existing"]
    """Selects this kind."""


Database = Annotated[PostgresServer | ExistingDatabase, Field(discriminator="kind")]


class Artifacts(Model):
    """Where the files of runs and models are kept: exactly one of these."""

    create: CreatedStore | None = None
    """A bucket that the stack makes, on target eks; the server reaches it by its own identity."""
    volume: Volume | None = None
    """A volume of its own, mounted by the tracking server."""
    existing: ExistingStore | None = None
    """An S3 bucket that is there already. Not the backup store's: a backup beside its original
    is lost with it."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Artifacts":
        given = [
            name for name in ("create", "volume", "existing") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} is given: give exactly one of create, volume "
                "and existing"
            )
        return self

    @property
    def url(self) -> str | None:
        """The bucket's address; None where they are on a volume."""
        if self.create is not None:
            return f"s3://{self.create.name}"
        return self.existing.url if self.existing is not None else None

    @property
    def bucket(self) -> ExistingStore | None:
        """A bucket that was there before; None where they are elsewhere."""
        return self.existing


class Tracking(Model):
    """An MLflow server with basic authentication, its database and its artifacts."""

    namespace: Name = "pipeline"
    """The namespace of its objects; made by the stack, Pod Security ``restricted``."""
    image: Image = "holdfast-tracking:dev"
    """MLflow with what it needs for PostgreSQL and S3: images/tracking."""
    database: Database
    """Where runs, metrics and models are registered."""
    artifacts: Artifacts
    """Where their files are kept."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Further host names under which browsers and clients reach it, such as that of an Ingress.
    The Service's own names and localhost are always allowed."""
    workers: int = Field(default=1, ge=1, le=16)
    """Server processes."""
    resources: TrackingResources = TrackingResources()
    """CPU and memory of the server."""

    def volumes(self) -> Iterator[tuple[str, Volume]]:
        """Each volume of the server: the setting that it comes from, itself."""
        if isinstance(self.database, PostgresServer):
            yield "database.volume", self.database.volume
        if self.artifacts.volume is not None:
            yield "artifacts.volume", self.artifacts.volume


class ProtectedDatabase(DatabaseAddress):
    """The database of a server that someone else installed. ``secret`` is the login of its owner,
    which a restore needs."""

    reader: Name | None = None
    """A Secret as ``secret``, with the login of a user that can only read: backups and checks use
    it. Default: ``secret``."""
    pods: Labels = Field(default_factory=dict)
    """Labels of its pods, where network policies close them and they are in the same namespace: the
    tasks are let in. Leave it out where none does: such a policy closes what no other one does."""


class ProtectedArtifacts(Model):
    """Where such a server keeps its files: a claim or a bucket."""

    claim: Name | None = None
    """The PersistentVolumeClaim in the server's namespace that they are on."""
    path: AbsolutePath = "/var/lib/mlflow/artifacts"
    """Of a claim: the directory of the artifacts as the server calls it, since links in its
    database may name it."""
    sub_path: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)*$")
    """Of a claim: where in it that directory is. Default: its root."""
    bucket: ExistingStore | None = None
    """The bucket that they are in."""

    @model_validator(mode="after")
    def _one_place(self) -> "ProtectedArtifacts":
        if (self.claim is None) == (self.bucket is None):
            given = "both are" if self.claim else "neither is"
            raise ValueError(f"{given} given: give one of claim and bucket")
        for path in RESERVED_PATHS:
            if f"{self.path}/".startswith(f"{path}/") or path.startswith(f"{self.path}/"):
                raise ValueError(
                    f"path {self.path} overlaps {path}, which the tasks use: mount the claim "
                    "elsewhere in the server, and say so here"
                )
        return self

    @property
    def url(self) -> str | None:
        """The bucket's address; None where they are on a claim."""
        return self.bucket.url if self.bucket is not None else None


class SecretKey(Model):
    """One value of a Secret in the server's namespace."""

    secret: Name
    """The Secret."""
    key: str = Field(min_length=1, max_length=253, pattern=r"^[\w.-]+$")
    """The key in it."""


class ExistingServer(Model):
    """An MLflow server that someone else installed. The stack makes and deletes nothing of it, and
    backs it up and restores it as its own."""

    namespace: Name
    """Where it is. The stack adds the accounts, the schedule and the configuration of its
    backups."""
    deployment: Name
    """Its Deployment, which a restore scales to zero and back."""
    mlflow_version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    """What it runs, such as ``3.17.2``: a snapshot says so, and a restore compares."""
    image: Image = "holdfast-tracking:dev"
    """What the tasks run: images/tracking. Its MLflow must know the server's schema, and its
    PostgreSQL's client must not be older than the database."""
    run_as: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """User and group id of the tasks: those of the server, where artifacts are on a claim. Default:
    the stack's ``run_as``."""
    pods: Labels = Field(default_factory=dict)
    """Labels of its pods, where artifacts are on a claim that one node mounts at a time: the tasks
    run beside them where there is room."""
    database: ProtectedDatabase
    """Where runs, metrics and models are registered."""
    artifacts: ProtectedArtifacts
    """Where their files are kept."""
    encryption: SecretKey | None = None
    """Where the server's MLFLOW_CRYPTO_KEK_PASSPHRASE is: a snapshot has a fingerprint of it.
    Default: the server has none."""


class PipelineBackup(Schedule):
    """When database and artifacts are backed up, as one snapshot."""

    enabled: bool = True
    """``false``: they are not backed up."""
    schedule: Cron = "0 * * * *"
    """When to back up, in UTC."""


class Pipeline(Model):
    """What belongs to training besides the training itself."""

    tracking: Tracking | None = None
    """Experiment tracking of the stack's own. Default: none."""
    existing: ExistingServer | None = None
    """Experiment tracking that is there already, to be protected. Default: none."""
    backup: PipelineBackup = PipelineBackup()
    """Its protection, where there is experiment tracking."""

    @model_validator(mode="after")
    def _one_server(self) -> "Pipeline":
        if self.existing is None:
            return self
        if self.tracking is not None:
            raise ValueError(
                "tracking and existing are given: a stack protects one server: give one of them"
            )
        if not self.backup.enabled:
            raise ValueError(
                "backup.enabled: false leaves nothing to do with existing: leave existing out"
            )
        return self

    @property
    def protected(self) -> Tracking | ExistingServer | None:
        """The tracking server that is backed up; None where there is none."""
        return self.existing or (self.tracking if self.backup.enabled else None)

    def images(self) -> dict[str, str]:
        """Each image by the setting that names it."""
        tracking = self.tracking
        if self.existing is not None:
            return {"pipeline.existing.image": self.existing.image}
        if tracking is None:
            return {}
        found = {"pipeline.tracking.image": tracking.image}
        if isinstance(tracking.database, PostgresServer):
            found["pipeline.tracking.database.image"] = tracking.database.image
        return found

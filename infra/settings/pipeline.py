"""The pipeline around the training: experiment tracking by MLflow, on PostgreSQL.

The database holds runs, metrics and the model registry; the artifact store holds files. Neither is
of use without the other, so both are settings of one server.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from infra.settings.bucket import CreatedStore
from infra.settings.fields import Cpu, Cron, Image, Model, Name, Size
from infra.settings.store import ExistingStore
from infra.settings.volumes import Volume
from infra.settings.workload import Schedule

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _host(value: str) -> str:
    if _HOST.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a host name: write one such as database.example, without a port"
        )
    return value


HostName = Annotated[str, AfterValidator(_host)]


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


class ExistingDatabase(Model):
    """A PostgreSQL that is there already, such as RDS."""

    kind: Literal["existing"]
    """Selects this kind."""
    host: HostName
    """Its host name or address."""
    port: int = Field(default=5432, ge=1, le=65535)
    """Its port."""
    name: str = Field(default="mlflow", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    """The database. It must exist, and belong to the user."""
    secret: Name
    """A Secret in the tracking server's namespace with the keys ``username`` and ``password``."""
    tls: Literal["require", "verify-full"] = "verify-full"
    """``verify-full``: the server's certificate must be known to the image and name the host;
    ``require``: any certificate will do."""


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


class PipelineBackup(Schedule):
    """When database and artifacts are backed up, as one snapshot."""

    enabled: bool = True
    """``false``: they are not backed up."""
    schedule: Cron = "0 * * * *"
    """When to back up, in UTC."""


class Pipeline(Model):
    """What belongs to training besides the training itself."""

    tracking: Tracking | None = None
    """Experiment tracking. Default: none."""
    backup: PipelineBackup = PipelineBackup()
    """Its protection, where there is experiment tracking."""

    @property
    def protected(self) -> Tracking | None:
        """The tracking server that is backed up; None where there is none."""
        return self.tracking if self.backup.enabled else None

    def images(self) -> dict[str, str]:
        """Each image by the setting that names it."""
        tracking = self.tracking
        if tracking is None:
            return {}
        found = {"pipeline.tracking.image": tracking.image}
        if isinstance(tracking.database, PostgresServer):
            found["pipeline.tracking.database.image"] = tracking.database.image
        return found

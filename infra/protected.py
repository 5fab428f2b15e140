"""What the pipeline's backups must know of its tracking server, whoever installed that."""

from dataclasses import dataclass

from infra.names import CLAIM_LABEL, TRACKING, TRACKING_DATABASE
from infra.settings import ExistingServer, ExistingStore, Pipeline, Tracking
from infra.settings.pipeline import DatabaseAddress, PostgresServer, SecretKey

#: Where the artifacts' volume appears in the stack's own server, and in the tasks.
ARTIFACTS_MOUNT = "/var/lib/mlflow/artifacts"
#: The database of the stack's own server.
DATABASE = "mlflow"


@dataclass(frozen=True)
class Claim:
    """A claim that holds artifacts."""

    name: str
    path: str
    """Where the server mounts it, and so the tasks."""
    sub_path: str | None
    """What of it the server mounts; None: all."""
    beside: dict[str, str]
    """Labels of the server's pods: tasks go to their node."""
    required: bool
    """Whether tasks run nowhere else. They then carry the labels too, so that they are scheduled
    when there is no server."""


@dataclass(frozen=True)
class ProtectedServer:
    """A tracking server that is backed up."""

    namespace: str
    deployment: str
    """What a restore scales to zero."""
    image: str
    """Of the tasks."""
    run_as: int | None
    """User of the tasks; None: that of the stack's other pods."""
    database: dict[str, str]
    """Where the database is, as libpq reads it from the environment."""
    login: str
    """The Secret with the login of the database's owner."""
    reader: str
    """That of a user who can read it; mostly the same."""
    key: SecretKey | None
    """Where the key of MLflow's own secrets is."""
    claim: Claim | None
    """What the artifacts are on; None: they are in a bucket."""
    url: str | None
    """The bucket's address."""
    bucket: ExistingStore | None
    """How the bucket is reached, where it was there already."""
    mlflow_version: str | None = None
    """What the server runs; None: what the tasks' image has."""
    database_pods: dict[str, str] | None = None
    """Labels of the database's pods, where the tasks must be let in."""
    foreign: bool = False
    """Whether someone else installed it."""


def protected_server(pipeline: Pipeline) -> ProtectedServer | None:
    """The server that is backed up; None where there is none."""
    server = pipeline.protected
    if isinstance(server, Tracking):
        return _own(server)
    return _existing(server) if server is not None else None


def _own(tracking: Tracking) -> ProtectedServer:
    database, artifacts = tracking.database, tracking.artifacts
    login = TRACKING_DATABASE if isinstance(database, PostgresServer) else database.secret
    claim = None
    if artifacts.volume is not None:
        name = artifacts.volume.claim
        claim = Claim(name, ARTIFACTS_MOUNT, None, {CLAIM_LABEL: name}, required=True)
    return ProtectedServer(
        namespace=tracking.namespace,
        deployment=TRACKING,
        image=tracking.image,
        run_as=None,
        database=connection(tracking),
        login=login,
        reader=login,
        key=SecretKey(secret=TRACKING, key="encryption-key"),
        claim=claim,
        url=artifacts.url,
        bucket=artifacts.bucket,
    )


def _existing(server: ExistingServer) -> ProtectedServer:
    database, artifacts = server.database, server.artifacts
    claim = None
    if artifacts.claim is not None:
        claim = Claim(
            artifacts.claim, artifacts.path, artifacts.sub_path, server.pods, required=False
        )
    return ProtectedServer(
        namespace=server.namespace,
        deployment=server.deployment,
        image=server.image,
        run_as=server.run_as,
        database=address(database),
        login=database.secret,
        reader=database.reader or database.secret,
        key=server.encryption,
        claim=claim,
        url=artifacts.url,
        bucket=artifacts.bucket,
        mlflow_version=server.mlflow_version,
        database_pods=database.pods or None,
        foreign=True,
    )


def connection(tracking: Tracking) -> dict[str, str]:
    """Where the database of the stack's own server is, as libpq reads it from the environment."""
    if isinstance(tracking.database, PostgresServer):
        return {"PGHOST": TRACKING_DATABASE, "PGPORT": "5432", "PGDATABASE": DATABASE}
    return address(tracking.database)


def address(database: DatabaseAddress) -> dict[str, str]:
    """Where someone else's database is, as libpq reads it from the environment."""
    return {
        "PGHOST": database.host,
        "PGPORT": str(database.port),
        "PGDATABASE": database.name,
        "PGSSLMODE": database.tls,
        # What the image trusts; libpq would look into the home directory.
        **({"PGSSLROOTCERT": "system"} if database.tls == "verify-full" else {}),
    }

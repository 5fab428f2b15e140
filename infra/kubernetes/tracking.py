"""Experiment tracking: an MLflow server, its PostgreSQL, and who may reach them.

Metrics and the model registry are rows of the database, files are artifacts; the server proxies the
artifacts, so that clients hold one password and no right to where the files are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_random as random

from infra.kubernetes.pipeline import login
from infra.kubernetes.pods import env, user
from infra.kubernetes.storage import name_of
from infra.manifests import Manifest, load, load_all, merge, register
from infra.names import CLAIM_LABEL, TRACKING, TRACKING_CLIENT, TRACKING_DATABASE, TRACKING_PORT
from infra.options import after
from infra.protected import ARTIFACTS_MOUNT, connection
from infra.settings import Tracking
from infra.settings.pipeline import ExistingDatabase, PostgresServer, TrackingResources

#: Long enough that no one guesses one; letters and digits go through every shell and URL.
PASSWORD_LENGTH = 32


class TrackingServer(pulumi.ComponentResource):
    """The MLflow server of a stack.

    Produces: passwords; the Secrets ``tracking``, ``tracking-users`` and, unless the database is
    someone else's, ``tracking-database``; ServiceAccount, ConfigMap, Service, Deployment and
    NetworkPolicy ``tracking``; for a database of its own a StatefulSet, its Service and its
    NetworkPolicy ``tracking-database``; a NetworkPolicy that closes the namespace; in each
    namespace of a workload a Secret ``tracking-client``.
    """

    url: str
    """The server's address in the cluster."""
    service_name: pulumi.Output[str]
    """The Service in front of it."""
    client_secrets: dict[str, pulumi.CustomResource]
    """The Secret that trainers log in with, by their namespace."""

    def __init__(
        self,
        name: str,
        tracking: Tracking,
        run_as: int,
        clients: Mapping[str, pulumi.ResourceOptions],
        claims: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            tracking: its settings.
            run_as: user and group of its pods.
            clients: the namespaces of trainers, each with options that wait for it.
            claims: what its pods hold; replaced only while no pod runs.
            opts: the provider, the namespace and the claims.
        """
        super().__init__("holdfast:pipeline:TrackingServer", name, {}, opts)
        self._name, self._namespace = name, tracking.namespace
        self._own = pulumi.ResourceOptions(parent=self)
        self._claims = list(claims)
        self.url = tracking_url(tracking)
        trainer = self._password("trainer")
        before = [
            self._register("network-policy", load("network-policy")),
            self._secret(TRACKING, {"session-key": "session", "encryption-key": "encryption"}),
            self._secret("tracking-users", {"admin": "admin"}, {"trainer": trainer}),
            self._register("account", _named(load("service-account"), TRACKING)),
        ]
        database = tracking.database
        if isinstance(database, PostgresServer):
            before.append(
                self._secret(TRACKING_DATABASE, {"password": "database"}, {"username": "mlflow"})
            )
            for kind, manifest in _database(database, run_as).items():
                self._register(f"database-{kind.lower()}", manifest, *before)
        objects = _server(tracking, run_as, list(clients))
        before.append(self._register("configuration", objects["ConfigMap"]))
        self._register("policy", objects["NetworkPolicy"])
        self.service = self._register("service", objects["Service"])
        self._register("server", objects["Deployment"], *before)
        self.client_secrets = {
            namespace: register(
                f"{name}-client-{namespace}",
                _client_secret(namespace, self.url, trainer),
                pulumi.ResourceOptions.merge(options, self._own),
            )
            for namespace, options in clients.items()
        }
        self.service_name = name_of(self.service)
        self.register_outputs({"service_name": self.service_name})

    def _register(
        self, what: str, manifest: Manifest, *first: pulumi.Resource
    ) -> pulumi.CustomResource:
        placed = merge(manifest, {"metadata": {"namespace": self._namespace}})
        holds = placed["kind"] in ("Deployment", "StatefulSet")
        own = pulumi.ResourceOptions.merge(
            self._own, pulumi.ResourceOptions(replace_with=self._claims if holds else None)
        )
        return register(f"{self._name}-{what}", placed, after(own, *first))

    def _secret(
        self,
        secret: str,
        passwords: Mapping[str, str],
        given: Mapping[str, pulumi.Input[str]] | None = None,
    ) -> pulumi.CustomResource:
        """A Secret with a password of its own for each key, and what is given beside."""
        data: dict[str, pulumi.Input[str]] = {
            key: self._password(purpose) for key, purpose in passwords.items()
        }
        change = {"metadata": {"name": secret}, "stringData": {**(given or {}), **data}}
        return self._register(f"{secret}-secret", merge(load("secret"), change))

    def _password(self, purpose: str) -> pulumi.Output[str]:
        made = random.RandomPassword(
            f"{self._name}-{purpose}-password",
            length=PASSWORD_LENGTH,
            special=False,
            opts=self._own,
        )
        return pulumi.Output.secret(made.result)


def tracking_url(tracking: Tracking) -> str:
    """The server's address in the cluster, for clients in any namespace."""
    return f"http://{TRACKING}.{tracking.namespace}.svc:{TRACKING_PORT}"


def _named(manifest: Manifest, name: str) -> Manifest:
    return merge(manifest, {"metadata": {"name": name}})


def _client_secret(namespace: str, url: str, password: pulumi.Output[str]) -> Manifest:
    """What MLflow's client reads from its environment."""
    return merge(
        load("secret"),
        {
            "metadata": {"name": TRACKING_CLIENT, "namespace": namespace},
            "stringData": {
                "MLFLOW_TRACKING_URI": url,
                "MLFLOW_TRACKING_USERNAME": "trainer",
                "MLFLOW_TRACKING_PASSWORD": password,
            },
        },
    )


def _amounts(resources: TrackingResources) -> Manifest:
    return {
        "requests": {"cpu": resources.cpu, "memory": resources.memory},
        "limits": {"memory": resources.memory},
    }


def _database(database: PostgresServer, run_as: int) -> dict[str, Manifest]:
    """The objects of a database of the stack's own, by kind."""
    objects = load_all("tracking-database")
    claim = database.volume.claim
    container = {
        "name": "postgresql",
        "image": database.image,
        "resources": _amounts(database.resources),
    }
    template = {
        "metadata": {"labels": {"holdfast.dev/claim": claim}},
        "spec": {
            **user(run_as),
            "containers": [container],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
    objects["StatefulSet"] = merge(objects["StatefulSet"], {"spec": {"template": template}})
    return objects


def _server(tracking: Tracking, run_as: int, namespaces: list[str]) -> dict[str, Manifest]:
    """The objects of the MLflow server, by kind."""
    objects = load_all("tracking")
    database = tracking.database
    artifacts: dict[str, Any] = {"env": _artifacts_environment(tracking)}
    volumes: list[Manifest] = []
    if tracking.artifacts.volume is not None:
        artifacts["volumeMounts"] = [{"name": "artifacts", "mountPath": ARTIFACTS_MOUNT}]
        claim = {"claimName": tracking.artifacts.volume.claim}
        volumes.append({"name": "artifacts", "persistentVolumeClaim": claim})
    bucket = tracking.artifacts.existing
    if bucket is not None and bucket.credentials_secret is not None:
        artifacts["envFrom"] = [{"secretRef": {"name": bucket.credentials_secret}}]
    reach: list[Any] = [*env(connection(tracking))]
    if isinstance(database, ExistingDatabase):
        reach += login(database.secret)
    server = {
        "name": "mlflow",
        "image": tracking.image,
        "resources": _amounts(tracking.resources),
        **artifacts,
        "env": [*reach, *artifacts["env"], *env(_hosts(tracking))],
    }
    users = {"name": "users", "image": tracking.image, "env": reach}
    pod = {
        **user(run_as),
        "initContainers": [users],
        "containers": [server],
        "volumes": volumes,
    }
    # Tasks that mount the artifacts' volume too find the server's node by this label.
    volume = tracking.artifacts.volume
    labels = {CLAIM_LABEL: volume.claim} if volume is not None else {}
    template = {"metadata": {"labels": labels}, "spec": pod}
    deployment = merge(objects["Deployment"], {"spec": {"template": template}})
    command = deployment["spec"]["template"]["spec"]["containers"][0]["command"]
    command += ["--workers", str(tracking.workers)]
    named = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}
    peers = [{"namespaceSelector": {"matchExpressions": [named]}}]
    policy = objects["NetworkPolicy"]
    (rule,) = policy["spec"]["ingress"]
    objects["NetworkPolicy"] = merge(policy, {"spec": {"ingress": [{**rule, "from": peers}]}})
    objects["Deployment"] = deployment
    return objects


def _artifacts_environment(tracking: Tracking) -> list[Manifest]:
    bucket = tracking.artifacts.existing
    values = {"MLFLOW_ARTIFACTS_DESTINATION": tracking.artifacts.url or ARTIFACTS_MOUNT}
    if bucket is not None and bucket.region is not None:
        values["AWS_DEFAULT_REGION"] = bucket.region
    if bucket is not None and bucket.endpoint is not None:
        values["MLFLOW_S3_ENDPOINT_URL"] = bucket.endpoint
    return env(values)


def _hosts(tracking: Tracking) -> dict[str, str]:
    """The names under which the server answers; it refuses all others."""
    service = f"{TRACKING}.{tracking.namespace}"
    names = [
        "localhost", "127.0.0.1", TRACKING, service, f"{service}.svc",
        f"{service}.svc.cluster.local", *tracking.allowed_hosts,
    ]  # fmt: skip
    with_ports = [host for name in names for host in (name, f"{name}:*")]
    return {"MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(with_ports)}

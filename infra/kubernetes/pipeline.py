"""What stands for a pipeline in the cluster: where its database, artifacts and backups are, and the
tasks that copy them."""

from collections.abc import Mapping

import pulumi

from infra.kubernetes.pods import PodSettings, env, environment_map, user, with_store
from infra.manifests import Manifest, load, merge, register
from infra.names import PIPELINE, workload_labels
from infra.protected import Claim, ProtectedServer
from infra.settings import BackupStore

#: Phases of the pipeline's Blueprint that touch the artifacts themselves; only `pull` writes them,
#: and the database.
ON_ARTIFACTS = {"push", "pull", "compare"}
RESTORES = {"pull"}
#: What the server encrypts its own secrets with, as MLflow calls it.
KEY = "MLFLOW_CRYPTO_KEK_PASSPHRASE"


class PipelineConfiguration(pulumi.ComponentResource):
    """The object of the pipeline's ActionSets.

    Produces: ConfigMap ``holdfast-pipeline`` with the environment of its tasks, no secrets; in a
    namespace of someone else's a NetworkPolicy that closes the tasks' pods, and one that lets them
    in to the database where the settings say which pods that is.
    """

    def __init__(
        self,
        name: str,
        server: ProtectedServer,
        store: BackupStore,
        environment: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """
        Args:
            name: the Pulumi name.
            server: what is protected.
            store: where its backups live.
            environment: of `holdfast` in all of its pods.
            opts: the provider, and the namespace.
        """
        super().__init__("holdfast:pipeline:PipelineConfiguration", name, {}, opts)
        own = pulumi.ResourceOptions(parent=self)
        metadata = {"namespace": server.namespace, "labels": workload_labels(PIPELINE)}
        self.config_map = register(
            f"{name}-environment", environment_map(PIPELINE, metadata, store, environment), own
        )
        if server.foreign:
            closed = merge(load("task-network-policy"), {"metadata": metadata})
            register(f"{name}-task-network", closed, own)
        if server.database_pods is not None:
            register(f"{name}-database-network", _to_database(server, metadata), own)
        self.register_outputs({})


def _to_database(server: ProtectedServer, metadata: Manifest) -> Manifest:
    policy = merge(load("task-database-policy"), {"metadata": metadata})
    (rule,) = policy["spec"]["ingress"]
    port = {"port": int(server.database["PGPORT"]), "protocol": "TCP"}
    policy["spec"] |= {
        "podSelector": {"matchLabels": server.database_pods},
        "ingress": [{**rule, "ports": [port]}],
    }
    return policy


def pipeline_task(
    phase: str, arguments: Manifest, pods: PodSettings, server: ProtectedServer
) -> Manifest:
    """A task of the Blueprint that reaches the database, and the artifacts on their volume or in
    their bucket. Only a restore gets the login of the database's owner."""
    pod = merge(arguments["podOverride"], user(server.run_as or pods.run_as))
    (container,) = pod["containers"]
    restores = phase in RESTORES
    container["env"] = _environment(container["env"], server, restores=restores)
    labels: Manifest = {}
    if server.claim is not None and phase in ON_ARTIFACTS:
        pod = merge(pod, _on_claim(server.claim, read_only=not restores))
        labels = server.claim.beside if server.claim.required else {}
    bucket = server.bucket
    if bucket is not None and bucket.credentials_secret is not None and pods.store.existing is None:
        secret = {"secretRef": {"name": bucket.credentials_secret}}
        change = {"name": container["name"], "envFrom": [*container["envFrom"], secret]}
        pod = merge(pod, {"containers": [change]})
    return {
        **arguments,
        "image": server.image,
        "podLabels": merge(arguments["podLabels"], labels),
        "podOverride": with_store(pod, pods.store, {container["name"]: restores}),
    }


def _environment(
    written: list[Manifest], server: ProtectedServer, *, restores: bool
) -> list[Manifest]:
    """What the Blueprint says, with the Secrets of this server; a server without a key of its own
    has no Secret for it."""
    of_secrets = {each["name"]: each for each in login(server.login if restores else server.reader)}
    if server.key is not None:
        of_secrets[KEY] = _from_secret(KEY, server.key.secret, server.key.key)
    named = [each for each in written if each["name"] != KEY or server.key is not None]
    return [of_secrets.get(each["name"], each) for each in named]


def login(secret: str) -> list[Manifest]:
    """User and password of a database, from a Secret with those keys."""
    return [
        _from_secret(variable, secret, key)
        for variable, key in (("PGUSER", "username"), ("PGPASSWORD", "password"))
    ]


def _from_secret(variable: str, secret: str, key: str) -> Manifest:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _on_claim(claim: Claim, *, read_only: bool) -> Manifest:
    """The part of a pod that mounts the artifacts where the server does, on the server's node."""
    mount = {"name": "artifacts", "mountPath": claim.path, "readOnly": read_only}
    if claim.sub_path is not None:
        mount["subPath"] = claim.sub_path
    container = {
        "name": "container",
        "env": env({"HOLDFAST_ARTIFACTS": claim.path}),
        "volumeMounts": [mount],
    }
    source = {"claimName": claim.name, "readOnly": read_only}
    pod: Manifest = {
        "containers": [container],
        "volumes": [{"name": "artifacts", "persistentVolumeClaim": source}],
    }
    if claim.beside:
        pod["affinity"] = {"podAffinity": _beside(claim)}
    return pod


def _beside(claim: Claim) -> Manifest:
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": claim.beside},
    }
    if claim.required:
        return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    # Someone else's labels would put a task behind someone else's Service: it cannot carry them, so
    # it must be able to go elsewhere while the server is down.
    weighed = {"weight": 100, "podAffinityTerm": term}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [weighed]}

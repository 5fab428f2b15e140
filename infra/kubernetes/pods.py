"""Changes to pod specs that more than one layer makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.manifests import Manifest, load, merge
from infra.names import MADE_BY_STACK_ANNOTATION, STORE_MOUNT, config_map_name
from infra.settings import BackupStore, Images


@dataclass(frozen=True)
class PodSettings:
    """What all pods of a stack have in common."""

    images: Images
    run_as: int
    """Their user and group id."""
    store: BackupStore


def user(run_as: int) -> Manifest:
    """The pod's user and groups. Volumes that have owners get the same."""
    return {"securityContext": {"runAsUser": run_as, "runAsGroup": run_as, "fsGroup": run_as}}


def env(values: Mapping[str, str]) -> list[dict[str, str]]:
    """A container's ``env`` list."""
    return [{"name": name, "value": value} for name, value in values.items()]


def environment_map(
    claim: str, metadata: Manifest, store: BackupStore, environment: Mapping[str, str]
) -> Manifest:
    """The ConfigMap ``holdfast-<claim>`` with the environment of all pods of a workload. Beside the
    store's address stands whether the stack made it, for the next change of the settings."""
    mark = {"annotations": {MADE_BY_STACK_ANNOTATION: "true"}} if store.create else {}
    about = merge({**metadata, "name": config_map_name(claim)}, mark)
    return merge(load("config-map"), {"metadata": about, "data": dict(environment)})


def with_store(
    pod: Manifest, store: BackupStore, read_only: Mapping[str, bool], *, secret: str | None = None
) -> Manifest:
    """``pod`` with access to the backup store for the named containers and for no other.

    A bucket's own region stands in the container itself: EKS adds the cluster's region to each
    container with a Pod Identity that names none, and would win over the ConfigMap.

    Args:
        pod: a PodSpec, or the part of one that a Blueprint overrides.
        store: a volume is mounted; a bucket needs at most a Secret with credentials.
        read_only: for each container that needs the store, whether it only reads.
        secret: the Secret; defaults to the store's own setting.
    """
    change: dict[str, Any] = {}
    if store.volume is not None:
        change["volumes"] = [
            {"name": "store", "persistentVolumeClaim": {"claimName": store.volume.claim}}
        ]
    region = store.existing.region if store.existing else None
    secret = secret or (store.existing.credentials_secret if store.existing else None)
    for group in ("initContainers", "containers"):
        for container in pod.get(group, []):
            if container["name"] not in read_only:
                continue
            addition: dict[str, Any] = {"name": container["name"]}
            if store.volume is not None:
                mount: dict[str, Any] = {"name": "store", "mountPath": STORE_MOUNT}
                if read_only[container["name"]]:
                    mount["readOnly"] = True
                addition["volumeMounts"] = [mount]
            if secret is not None:
                source = {"secretRef": {"name": secret}}
                addition["envFrom"] = [*container.get("envFrom", []), source]
            if region is not None:
                addition["env"] = env({"AWS_REGION": region})
            change.setdefault(group, []).append(addition)
    return merge(pod, change)

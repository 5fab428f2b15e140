"""The container that a pod template of someone else's needs: it refills an empty volume first.

It is the one that the stack's own pods have; `init-container.yaml` is the source of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("init-container.yaml")
#: By it the tasks of a backup find the node that the claim is mounted on.
CLAIM_LABEL = "holdfast.dev/claim"


def pod_part(
    claim: str,
    image: str,
    mount_path: str,
    environment: Mapping[str, str],
    *,
    run_as: int,
    secret: str | None = None,
    of_a_job: bool = True,
) -> dict[str, Any]:
    """The part of a pod template: a label, the pods' user, the container and its volumes.

    Args:
        claim: what the pods mount.
        image: of the tools.
        mount_path: where the claim appears.
        environment: of `holdfast pull --if-empty`; where it writes its decision is added.
        run_as: user and group of the pods, who own what is on the volume.
        secret: with the credentials of the store, as ``AWS_*`` variables.
        of_a_job: whether the pods are not started again by what owns them.
    """
    import yaml

    base = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    left_out = () if of_a_job else base["only-of-a-job"]
    container = {key: value for key, value in base["container"].items() if key not in left_out}
    volumes = base["volumes"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    mounts["volume"]["mountPath"] = mount_path
    values = {
        **environment,
        "HOLDFAST_VOLUME": mount_path,
        "HOLDFAST_DECISION": f"{mounts['work']['mountPath']}/decision.json",
    }
    container |= {
        "image": image,
        **({"envFrom": [{"secretRef": {"name": secret}}]} if secret is not None else {}),
        "env": [{"name": name, "value": value} for name, value in values.items()],
    }
    for volume in volumes:
        if volume["name"] == "volume":
            volume["persistentVolumeClaim"]["claimName"] = claim
    user = {"runAsUser": run_as, "runAsGroup": run_as, "fsGroup": run_as}
    return {
        "metadata": {"labels": {CLAIM_LABEL: claim}},
        "spec": {"securityContext": user, "initContainers": [container], "volumes": volumes},
    }


def as_yaml(part: Mapping[str, Any]) -> str:
    """As a person merges it into a pod template; what is short is on one line."""
    import yaml

    return yaml.safe_dump(dict(part), sort_keys=False, default_flow_style=None, width=100).rstrip()

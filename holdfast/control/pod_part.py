"""What the stack says that the pod template of a workload of someone else's needs."""

from __future__ import annotations

import json
from typing import Any

from holdfast.control.kubernetes import KubernetesAPI, KubernetesError
from holdfast.errors import HoldfastError

#: On the ConfigMap of such a workload: the part of the pod template, as JSON.
POD_ANNOTATION = "holdfast.dev/pod"


class NoPodPart(HoldfastError):
    """The stack says nothing about the pods of this claim."""


def read(api: KubernetesAPI, namespace: str, claim: str) -> dict[str, Any]:
    """From the ConfigMap ``holdfast-<claim>``.

    Raises:
        NoPodPart: there is none, or its workload is not of kind ``protected``.
    """
    name = f"holdfast-{claim}"
    try:
        found = api.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    except KubernetesError as error:
        if error.status != 404:
            raise
        raise NoPodPart(
            f"there is no ConfigMap {namespace}/{name}: give the stack a workload of kind protected"
            " with this claim and run `pulumi up`, or give --image and the store"
        ) from None
    text = (found["metadata"].get("annotations") or {}).get(POD_ANNOTATION)
    if text is None:
        raise NoPodPart(
            f"ConfigMap {namespace}/{name} says nothing of a pod template: the stack makes the pods"
            " of this workload itself, with the container in them"
        )
    return json.loads(text)

"""What an action is about: a workload's claim, or the ConfigMap that stands for a pipeline.

A pipeline has a database and artifacts, each on a volume of the cluster or outside of it: no claim
is common to all. Its ConfigMap says where both are, and is there as long as they are protected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Kinds of objects, as Kanister and the admission policy spell them.
CLAIM, CONFIGURATION = "pvc", "configmap"
#: after the account of the tasks on a claim: that of the tasks that pause and resume its owner
PAUSE_SUFFIX = "-pause"
_CLAIM_LABEL = "holdfast.dev/claim"


@dataclass(frozen=True)
class Subject:
    """The object of an ActionSet."""

    namespace: str
    name: str
    kind: str = CLAIM

    @classmethod
    def parse(cls, reference: Mapping[str, Any]) -> Subject:
        """From ``spec.actions[].object`` of an ActionSet, whoever created it."""
        kind = str(reference.get("kind", ""))
        return cls(reference.get("namespace", ""), reference.get("name", ""), kind.lower())

    def reference(self) -> dict[str, str]:
        """As an ActionSet names it. Kinds that Kanister does not know need their resource."""
        found = {"kind": self.kind, "name": self.name, "namespace": self.namespace}
        if self.kind == CLAIM:
            return found
        return {"apiVersion": "v1", "resource": "configmaps", **found}

    def owns(self, pod: Mapping[str, Any]) -> bool:
        """Whether a pod of Kanister's is a task of ours on this object: by the account that only
        such tasks have, or by the claim's label."""
        account = (pod.get("spec") or {}).get("serviceAccountName")
        if self.kind == CONFIGURATION:
            return account in (self.name, f"{self.name}-restore")
        label = (pod["metadata"].get("labels") or {}).get(_CLAIM_LABEL)
        tasks = f"holdfast-{self.name}"
        return self.name == label or account in (tasks, f"{tasks}{PAUSE_SUFFIX}")

    def __str__(self) -> str:
        word = "claim" if self.kind == CLAIM else "configuration"
        return f"{word} {self.namespace}/{self.name}"

"""One owner on the cluster: its pods, what its queue does, and what its writers noted."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import kube
from tests.queues import journal
from tests.queues.owners import NAMESPACE, Owner
from tests.queues.writer import JOURNAL

HERE = f"--namespace={NAMESPACE}"


@dataclass
class Scene:
    """An owner with its volume. A queued one waits while its queue is held."""

    owner: Owner
    snapshots: dict[str, int] = field(default_factory=dict)
    """Those that may be restored, and the step of each."""

    @property
    def name(self) -> str:
        return self.owner.name

    @property
    def pause(self) -> str:
        """What the stack's ConfigMap says of it, as `--pause` takes it."""
        found = kube.get("configmap", f"holdfast-{self.name}", NAMESPACE)
        return found["data"]["HOLDFAST_PAUSE"]

    def pods(self) -> list[str]:
        """Those that may write, by their uid: not ended, and not kept back by their queue."""
        selector = f"holdfast.dev/claim={self.name},app.kubernetes.io/component!=task"
        found = kube.get("pods", namespace=NAMESPACE, selector=selector)
        return [one["metadata"]["uid"] for one in found
                if one["status"]["phase"] in ("Pending", "Running")
                and not one["spec"].get("schedulingGates")]  # fmt: skip

    def hold(self, *, evict: bool = True) -> None:
        """Admit nothing any more; a queued owner that runs is evicted."""
        self._stop_policy("HoldAndDrain" if evict else "Hold")

    def release(self) -> None:
        self._stop_policy("None")

    def suspend(self, value: bool) -> None:
        """What a person does to an owner that is in no queue."""
        self._patch(self.owner.resource, self.name, {"spec": self.owner.suspended(value)}, HERE)

    def replicas(self) -> int:
        """How many pods it should have; 0 where none are asked for, or it is not scaled."""
        return kube.get(self.owner.resource, self.name, NAMESPACE)["spec"].get("replicas", 0)

    def waits(self) -> None:
        kube.wait(f"{self.name} stands", lambda: not self.pods(), 90)

    def lines(self) -> list[journal.Line]:
        if "volumeName" not in kube.get("pvc", self.name, NAMESPACE)["spec"]:
            return []  # no pod has used the claim yet
        file = self._volume() / f"{JOURNAL}-{self.name}"
        return journal.read(file.read_text()) if file.exists() else []

    def writes_after(self, lines: int, seconds: float = 120) -> journal.Line:
        """The first writer that opens the run after so many lines, once it has saved."""

        def opened() -> journal.Line | None:
            new = self.lines()[lines:]
            opens = [line for line in new if line.what == "opens"]
            saved = {line.who for line in new if line.what == "saved"}
            return next((line for line in opens if line.who in saved), None)

        return kube.wait(f"{self.name} goes on", opened, seconds)

    def generation(self) -> int:
        """The present one."""
        found = [int(each[1]) for path in (self._volume() / self.name).iterdir()
                 if (each := re.fullmatch(r"gen-(\d+)", path.name))]  # fmt: skip
        return max(found)

    def marks(self) -> dict[str, str]:
        """What a restore noted on the owner or its Workload and has not taken away."""
        objects = [kube.get(self.owner.resource, self.name, NAMESPACE)]
        if self.owner.queued:
            objects += kube.get("workloads.kueue.x-k8s.io", namespace=NAMESPACE)
        return {
            f"{one['kind']}/{one['metadata']['name']} {key}": value
            for one in objects
            for key, value in one["metadata"].get("annotations", {}).items()
            if key.startswith("holdfast.dev/")
            and (one["metadata"]["name"] == self.name or self.name in one["metadata"]["name"])
        }

    def _volume(self) -> Path:
        claim = kube.get("pvc", self.name, NAMESPACE)
        spec = kube.get("pv", claim["spec"]["volumeName"])["spec"]
        return Path((spec.get("hostPath") or spec["local"])["path"])

    def _stop_policy(self, policy: str) -> None:
        self._patch("clusterqueues.kueue.x-k8s.io", self.name, {"spec": {"stopPolicy": policy}})

    def _patch(self, kind: str, name: str, patch: dict[str, Any], *where: str) -> None:
        text = json.dumps(patch)
        kube.kubectl("patch", kind, name, *where, "--type=merge", f"--patch={text}")

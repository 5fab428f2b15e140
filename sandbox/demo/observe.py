"""What a training in the sandbox has done: read from its metrics, volume and store."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.bundle import Bundle, check_files, check_tree
from holdfast.errors import HoldfastError
from holdfast.manifest import MANIFEST, Manifest
from holdfast.volume import Volume
from sandbox.cluster.cluster import Cluster, Event
from sandbox.cluster.pods import Pod
from sandbox.demo.command import Operator
from sandbox.errors import SandboxError

_POLL = 0.1
#: Every pod of a workload carries it.
WORKLOAD = "holdfast.dev/workload"


@dataclass(frozen=True)
class Line:
    """One line of the trainer's metrics; `fields` are those of the event, `time` Unix seconds."""

    pod: str
    event: str
    time: float
    step: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class Backup:
    """A backup that completed: its snapshot, the newest step in it, and what the push copied."""

    time: float
    snapshot: str
    step: int
    bytes: int
    seconds: float


class Training:
    """A training Job of one cluster, over all its pods: the first one, or that of this name."""

    def __init__(self, cluster: Cluster, name: str = "") -> None:
        self.cluster = cluster
        self.key = next(key for key, job in cluster.jobs.items()
                        if WORKLOAD in job.labels() and name in ("", job.name))  # fmt: skip
        mine = self.job.labels()[WORKLOAD]
        self.operator = Operator(cluster, next(
            cron for cron in cluster.cronjobs.values()
            if cron.manifest["metadata"].get("labels", {}).get(WORKLOAD) == mine))  # fmt: skip
        self.trainer = self.job.spec["template"]["spec"]["containers"][0]
        self.environment = Pod("look", self.key[0], self.job.spec["template"]["spec"], cluster,
                               self.job.labels()).environment(self.trainer)  # fmt: skip
        self.volume = Volume(Path(self.environment["HOLDFAST_VOLUME"]),
                             self.environment["HOLDFAST_RUN"])  # fmt: skip
        self.steps = int(self.environment["HOLDFAST_TRAINING_STEPS"])
        self.interval = int(self.environment["HOLDFAST_TRAINING_SAVE_EVERY"])

    @property
    def job(self) -> Any:
        return self.cluster.jobs[self.key]

    def lines(self, event: str | None = None) -> list[Line]:
        """All lines of all pods in the order of time, or those of one event."""
        metrics = Path(self.environment["HOLDFAST_METRICS"])
        where = metrics.relative_to(self.cluster.state / "pods" / "look")
        found: list[Line] = []
        for file in self.cluster.state.glob(f"pods/{self.key[1]}-[0-9]*/{where}"):
            pod = file.relative_to(self.cluster.state).parts[1]
            for text in file.read_text().splitlines(keepends=True):
                if text.endswith("\n"):
                    line = json.loads(text)
                    found.append(Line(pod, line.pop("event"), line.pop("time"),
                                      line.get("step", 0), line))  # fmt: skip
        return sorted((line for line in found if event in (None, line.event)), key=lambda x: x.time)

    def step(self) -> int:
        """The last completed step."""
        done = self.lines("step")
        return done[-1].step if done else 0

    def newest(self) -> Bundle:
        """The newest committed bundle on the volume."""
        return self.volume.bundles()[0]

    def events(self, what: str, **details: Any) -> list[Event]:
        """What has happened in the cluster so far, filtered by its details."""
        return [event for event in self.cluster.events
                if event.what == what and details.items() <= event.details.items()]  # fmt: skip

    def backups(self) -> list[Backup]:
        """The completed backups that hold a snapshot, oldest first."""
        done = self.events("actionset-ended", action="backup", state="complete")
        ended = [event for event in done if event.details["outputs"]["snapshot"]]
        return [Backup(event.time, event.details["outputs"]["snapshot"],
                       max(int(name.rpartition("-")[2])
                           for name in event.details["outputs"]["bundles"].split()),
                       int(event.details["outputs"]["bytes"]),
                       self.seconds(f"{event.details['actionset']}-push", "container"))
                for event in ended]  # fmt: skip

    def seconds(self, pod: str, container: str) -> float:
        """How long a container's last run took."""
        started = self.events("container-started", pod=pod, container=container)[-1]
        return self.events("container-ended", pod=pod, container=container)[-1].time - started.time

    def remove_job(self) -> dict[str, Any]:
        """Delete the Job; its manifest, to create it anew."""
        manifest = dict(self.job.manifest)
        self.cluster.delete_job(*self.key)
        return manifest

    def wait(self, what: str, condition: Callable[[], Any], limit: float = 240) -> Any:
        """Poll until `condition` is true; an error when the Job fails or it takes too long."""
        deadline = time.monotonic() + limit
        while not (value := condition()):
            job = self.job
            if job.finished == "Failed" or time.monotonic() > deadline:
                why = f"the Job failed: {job.reason}" if job.finished else f"not within {limit:g} s"
                raise SandboxError(f"waiting for {what}: {why}\n{self._log_tails()}")
            time.sleep(_POLL)
        return value

    def _log_tails(self) -> str:
        """The last lines of the last pod's logs, to find out why."""
        logs = sorted(self.job.pods[-1].directory.glob("*.log")) if self.job.pods else []
        return "\n".join(
            f"{log}:\n  " + "\n  ".join(log.read_text().splitlines()[-8:]) for log in logs
        )


def content_of(directory: Path) -> str:
    """The content (a hash) of what `holdfast get` made; "" unless every byte is as it says."""
    try:
        manifest = Manifest.parse((directory / MANIFEST).read_bytes())
        check_tree(directory, manifest)
    except (OSError, HoldfastError):
        return ""
    return "" if check_files(directory, manifest.files) else manifest.content

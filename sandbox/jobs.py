"""Jobs and CronJobs: which pod runs when, by the rules of the Job controller."""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from sandbox import pods
from sandbox.errors import Unsupported
from sandbox.pods import Node, Pod

#: The Job controller's back-off after a failed pod: 10 s doubling to 10 minutes, never reset.
BACKOFF, BACKOFF_LIMIT = 10.0, 600.0
_POLL = 0.05

_JOB = {"template", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes", "podFailurePolicy",
        "suspend", "completionMode", "completions", "parallelism", "podReplacementPolicy",
        "ttlSecondsAfterFinished", "activeDeadlineSeconds"}  # fmt: skip


class Clock:
    """Time `speed` times as fast as on the wall: schedules and back-offs run on it."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._origin, self._zero = datetime.now(UTC), time.monotonic()

    def now(self) -> datetime:
        return self._origin + timedelta(seconds=(time.monotonic() - self._zero) * self.speed)

    def wall_seconds_until(self, moment: datetime) -> float:
        return max(0.0, (moment - self.now()).total_seconds() / self.speed)


def problems(spec: Mapping[str, Any]) -> list[str]:
    """What a Job's spec asks for that the sandbox's single node does not do."""
    found = [f"Job field {name!r}" for name in sorted(set(spec) - _JOB)]
    for name in ("completions", "parallelism"):
        if spec.get(name, 1) != 1:
            found.append(f"{name}: {spec[name]} (the sandbox has one node and one pod per Job)")
    return found


def failure_action(policy: Mapping[str, Any], pod: Pod) -> str:
    """What `podFailurePolicy` says about a failed pod: FailJob, Ignore, FailIndex or Count."""
    for rule in policy.get("rules", []):
        if on_codes := rule.get("onExitCodes"):
            only = on_codes.get("containerName")
            codes = [c for name, c in pod.exit_codes.items() if c != 0 and only in (None, name)]
            inside = on_codes["operator"] == "In"
            if any((code in on_codes["values"]) == inside for code in codes):
                return rule["action"]
        types = {entry["type"] for entry in rule.get("onPodConditions", [])}
        if types & pod.conditions:
            return rule["action"]
    return "Count"


class Job:
    """One Job object. A thread runs its pods one after the other until it is finished."""

    def __init__(self, manifest: Mapping[str, Any], node: Node) -> None:
        self.manifest, self.node = manifest, node
        self.name: str = manifest["metadata"]["name"]
        self.namespace: str = manifest["metadata"].get("namespace", "default")
        self.spec: Mapping[str, Any] = manifest["spec"]
        if found := problems(self.spec) + pods.problems(self.spec["template"]["spec"]):
            raise Unsupported(f"Job {self.name}: the sandbox cannot run: {'; '.join(found)}")
        self.suspended = bool(self.spec.get("suspend", False))
        self.pods: list[Pod] = []
        self.finished: str | None = None  # Complete or Failed
        self.reason, self.failures = "", 0
        self.active: Pod | None = None
        self._deleted, self._lock = threading.Event(), threading.Lock()
        self._deadline: threading.Timer | None = None
        self._thread = threading.Thread(target=self._run, name=f"job {self.name}", daemon=True)

    def start(self) -> None:
        """Run in the background. Deadlines and grace periods are seconds of the wall, as ever."""
        if seconds := self.spec.get("activeDeadlineSeconds"):
            self._deadline = threading.Timer(seconds, self._overdue)
            self._deadline.daemon = True
            self._deadline.start()
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the Job is finished or deleted; whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def patch(self, change: Mapping[str, Any]) -> None:
        """Suspend or resume and annotate, as our Blueprints do; a finished Job stays so.

        Suspending stops the pod in the background, as the Job controller does.
        """
        spec = change.get("spec", {})
        if set(change) - {"metadata", "spec"} or set(spec) - {"suspend"}:
            raise Unsupported(f"patch of a Job with {change}: only spec.suspend is run here")
        metadata, news = self.manifest["metadata"], change.get("metadata", {})
        notes = metadata.get("annotations", {}) | news.get("annotations", {})
        notes = {key: value for key, value in notes.items() if value is not None}
        self.manifest = {**self.manifest, "metadata": {**metadata, "annotations": notes}}
        with self._lock:
            wanted = spec.get("suspend", self.suspended)
            if self.finished or self.suspended == wanted:
                return
            self.suspended = wanted
        self.node.record("job-suspended" if wanted else "job-resumed", job=self.name)
        if wanted and self.active:
            threading.Thread(target=self.active.stop, daemon=True).start()

    def delete(self, grace: float | None = None) -> None:
        """Stop the pod, by default with its own grace period, and end the Job's thread."""
        self._deleted.set()
        if self._deadline:
            self._deadline.cancel()
        if pod := self.active:
            pod.stop(grace)
        if self._thread.ident:
            self._thread.join()

    def labels(self) -> Mapping[str, str]:
        """The labels of its pods."""
        return self.spec["template"].get("metadata", {}).get("labels", {})

    def status(self) -> dict[str, Any]:
        """`.status` as the API shows it: `active` is absent when zero, `terminating` is not."""
        stopping = bool(self.active and self.active.terminating)
        status: dict[str, Any] = {"terminating": int(stopping)}
        if self.active and not stopping:
            status["active"] = 1
        if self.failures:
            status["failed"] = self.failures
        if self.finished == "Complete":
            status["succeeded"] = 1
        if kind := self.finished or ("Suspended" if self.suspended else None):
            status["conditions"] = [{"type": kind, "status": "True", "reason": self.reason}]
        return status

    def _run(self) -> None:
        delay = 0.0
        limit = self.spec.get("backoffLimitPerIndex", self.spec.get("backoffLimit", 6))
        while self.finished is None and not self._deleted.wait(delay / self.node.speed):
            with self._lock:
                ready = not self.suspended and self.node.schedulable.is_set()
                pod = self._next_pod() if ready else None
            if pod is None:
                delay = _POLL * self.node.speed
                continue
            phase, delay = pod.run(), 0.0
            self.active = None
            if self.finished:
                return
            if phase == "Succeeded":
                self._finish("Complete", "CompletionsReached")
            elif not pod.terminating:  # a pod that was suspended or deleted did not fail
                action = failure_action(self.spec.get("podFailurePolicy", {}), pod)
                self.failures += action != "Ignore"
                if action in ("FailJob", "FailIndex"):
                    self._finish("Failed", f"PodFailurePolicy: {pod.exit_codes} {pod.message}")
                elif self.failures > limit:
                    self._finish("Failed", f"BackoffLimitExceeded: {pod.exit_codes} {pod.message}")
                delay = min(BACKOFF * 2 ** (len(self._lost()) - 1), BACKOFF_LIMIT)

    def _overdue(self) -> None:
        if self.finished is None:
            self._finish("Failed", "DeadlineExceeded")
            self.delete()

    def _lost(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.phase == "Failed" and not pod.terminating]

    def _next_pod(self) -> Pod:
        name = f"{self.name}-{self.node.number(self.name)}"
        pod = Pod(name, self.namespace, self.spec["template"]["spec"], self.node, self.labels())
        self.pods.append(pod)
        self.active = pod
        return pod

    def _finish(self, kind: str, reason: str) -> None:
        self.finished, self.reason = kind, reason
        self.node.record("job-finished", job=self.name, result=kind, reason=reason)


class CronJob:
    """Makes a Job from its template whenever its schedule says so, on the sandbox's clock."""

    def __init__(self, manifest: Mapping[str, Any], node: Node, clock: Clock) -> None:
        self.manifest, self.node, self.clock = manifest, node, clock
        self.name: str = manifest["metadata"]["name"]
        self.namespace: str = manifest["metadata"].get("namespace", "default")
        self.spec: Mapping[str, Any] = manifest["spec"]
        if (policy := self.spec.get("concurrencyPolicy", "Allow")) == "Replace":
            raise Unsupported(f"CronJob {self.name}: concurrencyPolicy {policy} is not run here")
        self.zone = ZoneInfo(self.spec.get("timeZone", "UTC"))
        self.jobs: list[Job] = []
        self.missed = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"cron {self.name}", daemon=True)

    def start(self) -> None:
        if not self.spec.get("suspend", False):
            self._thread.start()

    def stop(self) -> None:
        """Fire no more, and kill the Jobs that still run."""
        self._stopped.set()
        for job in self.jobs:
            job.delete(grace=0)

    def fire(self, due: datetime) -> Job | None:
        """The Job for this moment, started; None when Forbid skips it because one still runs."""
        running = any(job.finished is None for job in self.jobs)
        if running and self.spec.get("concurrencyPolicy") == "Forbid":
            self.missed += 1
            self.node.record("cron-skipped", cronjob=self.name)
            return None
        template = self.spec["jobTemplate"]
        name = f"{self.name}-{int(due.timestamp()) // 60}"
        metadata = template.get("metadata", {}) | {"name": name, "namespace": self.namespace}
        job = Job({"metadata": metadata, "spec": template["spec"]}, self.node)
        self.jobs.append(job)
        self.node.record("cron-fired", cronjob=self.name, job=name)
        job.start()
        return job

    def _run(self) -> None:
        due = self.clock.now()
        while True:
            since = max(due, self.clock.now()).astimezone(self.zone)
            due = next(CronSim(self.spec["schedule"], since))
            if self._stopped.wait(self.clock.wall_seconds_until(due)):
                return
            self.fire(due)

"""Jobs and CronJobs: which pod runs when, following the Job controller."""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from sandbox.cluster import pods
from sandbox.cluster.pods import Node, Pod
from sandbox.errors import Unsupported

#: The Job controller's back-off after a failed pod: 10 s doubling to 10 minutes, never reset.
BACKOFF, BACKOFF_LIMIT = 10.0, 600.0
_POLL = 0.05

_JOB = {"template", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes", "podFailurePolicy",
        "suspend", "completionMode", "completions", "parallelism", "podReplacementPolicy",
        "successPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds"}  # fmt: skip

_QUEUE = "kueue.x-k8s.io/queue-name"


class Clock:
    """Time that runs `speed` times as fast as real time, for schedules and back-offs."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._origin, self._zero = datetime.now(UTC), time.monotonic()

    def now(self) -> datetime:
        return self._origin + timedelta(seconds=(time.monotonic() - self._zero) * self.speed)

    def wall_seconds_until(self, moment: datetime) -> float:
        return max(0.0, (moment - self.now()).total_seconds() / self.speed)


def problems(spec: Mapping[str, Any]) -> list[str]:
    """What a Job's spec needs that is not supported here: only indexes run side by side."""
    found = [f"Job field {name!r}" for name in sorted(set(spec) - _JOB)]
    count = spec.get("completions", 1)
    if count != 1 and spec.get("completionMode") != "Indexed":
        found.append(f"completions: {count} without completionMode Indexed")
    if spec.get("parallelism", 1) != count:
        found.append(f"parallelism {spec.get('parallelism', 1)} that differs from completions")
    rules = spec.get("successPolicy", {}).get("rules", [])
    if any(set(rule) != {"succeededCount"} for rule in rules):
        found.append("a successPolicy with anything but succeededCount")
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
    """One Job object. One thread per index runs its pods, one after the other."""

    def __init__(self, manifest: Mapping[str, Any], node: Node) -> None:
        self.manifest, self.node = manifest, node
        self.name: str = manifest["metadata"]["name"]
        self.namespace: str = manifest["metadata"].get("namespace", "default")
        self.spec: Mapping[str, Any] = manifest["spec"]
        template = self.spec["template"]["spec"]
        if queue := (manifest["metadata"].get("labels") or {}).get(_QUEUE):
            raise Unsupported(
                f"Job {self.name} waits in queue {queue!r} of Kueue, which the sandbox has not:"
                " leave `queue` out of the stack that runs here"
            )
        if found := problems(self.spec) + pods.problems(template, node.project):
            raise Unsupported(f"Job {self.name}: the sandbox cannot run: {'; '.join(found)}")
        self.suspended = bool(self.spec.get("suspend", False))
        self.pods: list[Pod] = []
        self.finished: str | None = None  # Complete or Failed
        self.reason, self.failures = "", 0
        indexed = self.spec.get("completionMode") == "Indexed"
        self.indexes = list(range(self.spec.get("completions", 1))) if indexed else [None]
        self._active: dict[int | None, Pod] = {}
        self._succeeded: set[int | None] = set()
        self._failed: set[int | None] = set()  # indexes that failed for good
        self._counted: dict[int | None, int] = {}  # failures of each
        self._deleted, self._lock = threading.Event(), threading.Lock()
        self._deadline: threading.Timer | None = None
        self._threads = [
            threading.Thread(target=self._run, args=[index], name=f"job {self.name}", daemon=True)
            for index in self.indexes
        ]

    @property
    def active(self) -> Pod | None:
        """The running pod; of several, the one with the lowest index."""
        return next(iter(self._running()), None)

    def start(self) -> None:
        """Run in the background. Deadlines and grace periods are in real seconds."""
        if seconds := self.spec.get("activeDeadlineSeconds"):
            self._deadline = threading.Timer(seconds, self._overdue)
            self._deadline.daemon = True
            self._deadline.start()
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the Job is finished or deleted; returns whether it is."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

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
        if wanted:
            self._stop_running()

    def delete(self, grace: float | None = None) -> None:
        """Stop the pod, by default with its own grace period, and end the Job's thread."""
        self._deleted.set()
        if self._deadline:
            self._deadline.cancel()
        for stopping in self._stop_running(grace):
            stopping.join()
        for thread in self._threads:
            if thread.ident:
                thread.join()

    def labels(self) -> Mapping[str, str]:
        """The labels of its pods."""
        return self.spec["template"].get("metadata", {}).get("labels", {})

    def status(self) -> dict[str, Any]:
        """`.status` as the API shows it: `active` is absent when zero, `terminating` is not."""
        running = self._running()
        stopping = sum(pod.terminating for pod in running)
        counts = {"active": len(running) - stopping, "failed": self.failures,
                  "succeeded": len(self._succeeded)}  # fmt: skip
        status: dict[str, Any] = {"terminating": stopping}
        status |= {name: count for name, count in counts.items() if count}
        if kind := self.finished or ("Suspended" if self.suspended else None):
            status["conditions"] = [{"type": kind, "status": "True", "reason": self.reason}]
        return status

    def _run(self, index: int | None) -> None:
        delay = 0.0
        while not self._over(index) and not self._deleted.wait(delay / self.node.speed):
            with self._lock:
                ready = not self.suspended and self.node.schedulable.is_set()
                pod = self._next_pod(index) if ready and not self.finished else None
            if pod is None:
                delay = _POLL * self.node.speed
                continue
            phase, delay = pod.run(), 0.0
            self._active.pop(index)
            if self.finished:
                return
            if phase == "Succeeded":
                self._succeed(index)
            elif not pod.terminating:  # a pod that was suspended or deleted did not fail
                delay = self._fail(index, pod)

    def _over(self, index: int | None) -> bool:
        return self.finished is not None or index in self._succeeded | self._failed

    def _succeed(self, index: int | None) -> None:
        self._succeeded.add(index)
        rules = self.spec.get("successPolicy", {}).get("rules", [])
        if any(len(self._succeeded) >= rule["succeededCount"] for rule in rules):
            self._finish("Complete", "SuccessPolicy")
        self._settle()

    def _settle(self) -> None:
        """Finish the Job when every index has finished."""
        if len(self._succeeded | self._failed) == len(self.indexes):
            if self._failed:
                self._finish("Failed", "FailedIndexes")
            else:
                self._finish("Complete", "CompletionsReached")

    def _fail(self, index: int | None, pod: Pod) -> float:
        """Count a failure; returns the seconds until the next pod."""
        action = failure_action(self.spec.get("podFailurePolicy", {}), pod)
        counts = action != "Ignore"
        with self._lock:
            self.failures += counts
            self._counted[index] = self._counted.get(index, 0) + counts
        limit = self.spec.get("backoffLimitPerIndex")
        about = f"{pod.exit_codes} {pod.message}"
        if action == "FailJob":
            self._finish("Failed", f"PodFailurePolicy: {about}")
        elif limit is None:
            if self.failures > self.spec.get("backoffLimit", 6):
                self._finish("Failed", f"BackoffLimitExceeded: {about}")
        elif action == "FailIndex" or self._counted[index] > limit:
            self._failed.add(index)
            if len(self._failed) > self.spec.get("maxFailedIndexes", len(self.indexes)):
                self._finish("Failed", f"MaxFailedIndexesExceeded: {about}")
            self._settle()
        lost = [p for p in self.pods if p.index == index and p.phase == "Failed"]
        tries = sum(not p.terminating for p in lost)
        return min(BACKOFF * 2 ** (tries - 1), BACKOFF_LIMIT)

    def _running(self) -> list[Pod]:
        return [pod for _, pod in sorted(self._active.copy().items())]

    def _stop_running(self, grace: float | None = None) -> list[threading.Thread]:
        """Stop all pods, in the background."""
        stopping = [
            threading.Thread(target=pod.stop, args=[grace], daemon=True) for pod in self._running()
        ]
        for thread in stopping:
            thread.start()
        return stopping

    def _overdue(self) -> None:
        if self.finished is None:
            self._finish("Failed", "DeadlineExceeded")
            self.delete()

    def _next_pod(self, index: int | None) -> Pod:
        name = self.name if index is None else f"{self.name}-{index}"
        pod = Pod(
            f"{name}-{self.node.number(name)}",
            self.namespace,
            self.spec["template"]["spec"],
            self.node,
            self.labels(),
            index,
        )
        self.pods.append(pod)
        self._active[index] = pod
        return pod

    def _finish(self, kind: str, reason: str) -> None:
        with self._lock:
            if self.finished:
                return
            self.finished, self.reason = kind, reason
        self.node.record("job-finished", job=self.name, result=kind, reason=reason)
        self._stop_running()


class CronJob:
    """Makes a Job from its template by its schedule, on the sandbox's clock."""

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
        """Start no more Jobs, and kill those that still run."""
        self._stopped.set()
        for job in self.jobs:
            job.delete(grace=0)

    def fire(self, due: datetime) -> Job | None:
        """Start the Job for this moment; None if Forbid skips it because one still runs."""
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

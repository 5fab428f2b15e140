"""Short trainings that end: the stack's own Job, for another run.

A failpoint holds one save of each until the test lets it go. So damage is done in the middle of a
save, at a known step, however fast the machine is.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast.control.job import Job
from tests.e2e import inspector, kube

JOB = "gpt"
STEPS, INTERVAL = 100, 10
#: The save of step 60. What goes on from step 50 has fewer saves left, and is not held again.
HELD = 6
_STEP = re.compile(r"^step +(\d+)/", re.M)
_GONE_ON = re.compile(r"resuming from step-(\d+)(?:(?!resuming from).)*saved step", re.S)
#: The bundle with which undisturbed trainings ended, by their Job.
_CALM: dict[str, dict[str, Any]] = {}


def hold(run: str, save: int = HELD) -> str:
    """HOLDFAST_FAILPOINT of a trainer whose n-th save waits for `Run.release`."""
    return f"commit.before-rename@{save}=hold:{_flag(run)}"


def _flag(run: str) -> str:
    return f"/var/ml_model/.held-{run}"


#: A tiny model, whose steps take milliseconds: the next save waits for the one that is held.
SETTINGS = {
    "HOLDFAST_TRAINING_STEPS": str(STEPS),
    "HOLDFAST_TRAINING_PRESET": "tiny",
    "HOLDFAST_TRAINING_WHEN_BUSY": "wait",
    "HOLDFAST_TRAINING_LOG_EVERY": "1",
}


@dataclass
class Run:
    """One training, in the pods of one Job."""

    name: str
    job: str = JOB
    namespace: str = kube.NAMESPACE
    _held: str = ""

    def in_a_save(self, saved: int = HELD - 1) -> tuple[str, int]:
        """Wait until a save is held and the trainer has come to the next; its pod and its step."""

        def held() -> str:
            done = self._trainer("cat", _flag(self.name))
            return done if done != self._held else ""

        self._held = kube.wait(f"a save of run {self.name} that is held", held, 180)
        step = (saved + 2) * INTERVAL
        pod = kube.wait("the pod of rank 0", self.first)
        kube.wait(f"step {step}", lambda: reached(self.log(pod)) == step)
        return pod, step

    def release(self) -> None:
        """Let the save that is held go on."""
        self._trainer("rm", _flag(self.name))

    def asked_to_stop(self) -> bool:
        """Whether the trainer has got its SIGTERM."""
        return bool(self._trainer("sh", "-c", "ls /tmp/holdfast-*/stop"))

    def pods(self) -> list[str]:
        """The trainer's pods, the newest last."""
        selector = f"{kube.TRAINER},holdfast.dev/workload={self.job}"
        found = kube.get("pods", namespace=self.namespace, selector=selector)
        metadata = [pod["metadata"] for pod in found]
        return [m["name"] for m in sorted(metadata, key=lambda m: m["creationTimestamp"])]

    def pod(self) -> str:
        """The newest pod; empty while there is none."""
        return (self.pods() or [""])[-1]

    def first(self) -> str:
        """The pod whose trainer prints: that of rank 0."""
        return next((pod for pod in reversed(self.pods()) if _STEP.search(self.log(pod))), "")

    def log(self, pod: str = "", container: str = "trainer") -> str:
        """What a container of a pod has printed; of the newest pod if none is named."""
        place = (f"--namespace={self.namespace}", f"--container={container}")
        name = pod or self.pod()
        return kube.attempt("logs", name, *place).stdout if name else ""

    def goes_on(self, reached: int, saved: int | None = None) -> str:
        """Wait until a trainer has resumed, from step `saved` if given, and saved again; the steps
        that were lost, as the table says it."""

        def resumed() -> int | None:
            for log in map(self.log, self.pods()):
                found = _GONE_ON.search(log)
                if found and saved in (None, int(found[1])):
                    return int(found[1])
            return None

        step = kube.wait(f"run {self.name} goes on", resumed, 150)
        return f"{reached - step} steps" if reached > step else "nothing"

    def ends_as(self, calm: Mapping[str, Any]) -> None:
        """Wait until the Job is complete, and compare its last bundle with an undisturbed one's."""
        kube.wait(f"the Job of run {self.name} is complete", self.is_complete, 240)
        ours = final(self.name)
        assert fingerprint(ours) == fingerprint(calm)
        assert (ours["bundle"], ours["content"]) == (calm["bundle"], calm["content"])

    def is_complete(self) -> bool:
        status = kube.get("job", self.job, self.namespace)["status"]
        states = {each["type"]: each for each in status.get("conditions", ())
                  if each["status"] == "True"}  # fmt: skip
        assert "Failed" not in states, states["Failed"]
        return "Complete" in states

    def _trainer(self, *command: str) -> str:
        """What a command in the trainer's container prints; empty where it cannot be run."""
        place = (self.pod(), f"--namespace={self.namespace}", "--container=trainer")
        return kube.attempt("exec", *place, "--", *command).stdout.strip()


class Runs:
    """The stack's Job, again and again for another run; at the end as it was."""

    def __init__(self, job: str = JOB, namespace: str = kube.NAMESPACE) -> None:
        self._job, self._namespace = job, namespace
        found = Job(kube.get("job", job, namespace))
        self._original, self._manager = found.fresh_manifest(), found.manager

    def start(self, run: str, save: int | None = HELD, **environment: str) -> Run:
        """Put a Job for this run in the place of the one that is there.

        Args:
            run: its name.
            save: which save to hold; None for none.
            environment: of both containers.
        """
        changed = {"HOLDFAST_RUN": run, **SETTINGS, **environment}
        if save:
            changed["HOLDFAST_FAILPOINT"] = hold(run, save)
        job = json.loads(json.dumps(self._original))
        spec = job["spec"]["template"]["spec"]
        for container in (*spec["initContainers"], *spec["containers"]):
            kept = [each for each in container["env"] if each["name"] not in changed]
            container["env"] = [*kept, *({"name": n, "value": v} for n, v in changed.items())]
        self._replace(job)
        return Run(run, self._job, self._namespace)

    def calm(self) -> dict[str, Any]:
        """The last bundle of a training that nobody disturbed; run once."""
        if self._job not in _CALM:
            run = self.start(f"calm-{self._job}", save=None)
            kube.wait("the undisturbed training", run.is_complete, 240)
            _CALM[self._job] = final(run.name)
        return _CALM[self._job]

    def restore(self) -> None:
        """The Job as the stack made it."""
        self._replace(self._original)

    def _replace(self, job: Mapping[str, Any]) -> None:
        here = f"--namespace={self._namespace}"
        kube.kubectl("delete", "job", self._job, here, "--cascade=foreground", "--ignore-not-found")
        pods = Run("", self._job, self._namespace).pods
        kube.wait("no trainer", lambda: not pods(), 180)
        owner = f"--field-manager={self._manager}"
        kube.kubectl("apply", "--server-side", owner, "--filename=-", given=json.dumps(job))


@contextmanager
def instead_of(job: str = JOB, namespace: str = kube.NAMESPACE) -> Iterator[Runs]:
    """While this lasts, the stack's Job is that of short runs."""
    runs = Runs(job, namespace)
    try:
        yield runs
    finally:
        inspector.remove()
        runs.restore()


def final(run: str) -> dict[str, Any]:
    """The newest bundle of a run, verified, with content and labels."""
    shown = inspector.inspect("env", f"HOLDFAST_RUN={run}", "holdfast", "latest", "--output=json")
    return json.loads(shown)


def fingerprint(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Without which nothing is claimed of the bits."""
    found = {k: v for k, v in bundle["labels"].items() if k.startswith("fingerprint.")}
    assert found, bundle
    return found


def reached(log: str) -> int:
    """The last step that a log speaks of."""
    return int((_STEP.findall(log) or ["0"])[-1])

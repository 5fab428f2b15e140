"""The stack's training on the cluster: backups and restores of it, what it saved, its bits."""

import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tests.e2e import kube

JOB = "gpt"
CLAIM = "checkpoints-pvc"
BACKUP_ACCOUNT = f"system:serviceaccount:{kube.NAMESPACE}:{JOB}-backup"
#: The pods of Kanister's tasks.
TASKS = "createdBy=kanister"
_HERE = f"--namespace={kube.NAMESPACE}"
_PLACE = (f"--workload={JOB}", _HERE, f"--claim={CLAIM}")
#: Prints {"generation/bundle": content} of every bundle that is on the volume.
_CONTENTS = """
import glob, json, os
found = {}
for name in glob.glob(os.environ["HOLDFAST_VOLUME"] + "/*/gen-*/step-*/MANIFEST.json"):
    try:
        found["/".join(name.split("/")[-3:-1])] = json.load(open(name))["content"]
    except OSError:
        pass  # keep K was quicker
print(json.dumps(found))
"""


def backup(timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """What the schedule's pod does, as its account: RBAC and the admission policy are the real."""
    options = ("--output=json", f"--timeout={timeout}")
    return kube.holdfast("backup", *_PLACE, *options, account=BACKUP_ACCOUNT)


def backed_up(timeout: int = 120) -> str:
    """A backup that must succeed; the id of its snapshot."""
    return snapshot_of(backup(timeout))


def snapshot_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.stderr}\n{kube.explanation()}"
    return json.loads(done.stdout)["outputs"]["snapshot"]


def restore(*which: str, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """Asked by a person: the schedule's account may not."""
    return kube.holdfast("restore", *which, *_PLACE, "--output=json", f"--timeout={timeout}")


def meanwhile(call: Callable[[], Any]) -> Future[Any]:
    """Run it beside what the test does next."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def pod() -> str:
    """The name of the trainer's pod that runs; empty while there is none."""
    running = [each for each in kube.pods() if each["status"].get("phase") == "Running"]
    return running[-1]["metadata"]["name"] if running else ""


def task() -> str:
    """The name of a task's pod that runs; empty while there is none."""
    running = [one for one in kube.pods(TASKS) if one["status"].get("phase") == "Running"]
    return running[0]["metadata"]["name"] if running else ""


def saved() -> int:
    """The step that the present trainer saved last; 0 before."""
    lines = [line for line in kube.training_log().splitlines() if line.startswith("saved step ")]
    return int(lines[-1].split()[2].rstrip(":")) if lines else 0


def saves(step: int, seconds: float = 180) -> None:
    """Wait until the present trainer has saved this step, or a later one."""
    kube.wait(f"a save of step {step}", lambda: saved() >= step, seconds)


def resumed() -> int:
    """The step from which the present trainer went on, once it has saved another one."""

    def both() -> str:
        log = kube.training_log(2000)
        return log if "saved step " in log and "resuming from step-" in log else ""

    log = kube.wait("a trainer that resumes and saves", both, 240)
    return int(re.findall(r"resuming from step-(\d+)", log)[-1])


def recovered() -> str:
    """What `recover` of the present trainer's pod printed: what it found, and whether it pulled."""
    return kube.attempt("logs", pod(), _HERE, "--container=recover").stdout


def suspend() -> None:
    """Stop the training as a person does; it saves, and no pod is left."""
    _suspended(True)
    kube.wait("no trainer", lambda: not kube.get("pods", selector=kube.TRAINER), 180)


def resume() -> None:
    _suspended(False)


def erase_volume() -> None:
    """What is on the volume is gone, from one moment to the next."""
    eraser()()


def eraser() -> Callable[[], None]:
    """What erases the volume's directory on its node, also when no claim is left to look it up."""
    volume = kube.get("pvc", CLAIM)["spec"]["volumeName"]
    path = PurePosixPath(kube.get("pv", volume)["spec"]["hostPath"]["path"])
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "eraser", "namespace": "default"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "eraser", "image": "holdfast-tools:dev", "imagePullPolicy": "IfNotPresent",
                "command": ["find", f"/node/{path.name}", "-mindepth", "1", "-delete"],
                "securityContext": {"runAsUser": 0},
                "volumeMounts": [{"name": "node", "mountPath": "/node"}],
            }],
            "volumes": [{"name": "node", "hostPath": {"path": str(path.parent)}}],
        },
    }  # fmt: skip

    def erase() -> None:
        kube.apply(pod)
        try:
            phase = lambda: kube.get("pod", "eraser", "default")["status"].get("phase")  # noqa: E731
            kube.wait("the volume is erased", lambda: phase() == "Succeeded")
        finally:
            kube.kubectl("delete", "pod", "eraser", "--namespace=default", "--grace-period=0")

    return erase


def dies_on_an_empty_volume(pod: str) -> None:
    """Its processes are stopped, what is on the volume is gone, and they are killed."""
    script = "kill -STOP -1; rm -rf /var/ml_model/* /var/ml_model/.[!.]*; kill -KILL -1"
    kube.attempt("exec", pod, _HERE, "--container=trainer", "--", "sh", "-c", script)


def _suspended(value: bool) -> None:
    patch = json.dumps({"spec": {"suspend": value}})
    kube.kubectl("patch", "job", JOB, _HERE, "--type=merge", f"--patch={patch}")


def pin(step: int) -> None:
    """Exempt a bundle of the volume from keep-K, as the runbook says before a restore."""
    kube.kubectl("exec", pod(), _HERE, "--container=trainer", "--", "holdfast", "pin",
                 f"step-{step:08d}")  # fmt: skip


def generation() -> int:
    """The present one on the volume."""
    found = kube.wait("a trainer that can be asked", _contents)
    return max(int(name.partition("/")[0].removeprefix("gen-")) for name in found)


def act(action: str, **options: str) -> None:
    """An action of the Blueprint that a person asks for by an ActionSet, to its end."""
    manifest = {
        "apiVersion": "cr.kanister.io/v1alpha1",
        "kind": "ActionSet",
        "metadata": {"name": f"by-hand-{action}", "namespace": kube.KANISTER},
        "spec": {"actions": [{
            "name": action, "blueprint": "checkpoints", "options": options,
            "object": {"kind": "pvc", "name": CLAIM, "namespace": kube.NAMESPACE},
        }]},
    }  # fmt: skip
    name = manifest["metadata"]["name"]
    kube.apply(manifest)
    try:
        state = lambda: kube.get("actionset", name, kube.KANISTER).get("status", {}).get("state")  # noqa: E731
        kube.wait(f"{action} ends", lambda: state() in ("complete", "failed"))
        assert state() == "complete", kube.explanation()
    finally:
        kube.kubectl("delete", "actionset", name, f"--namespace={kube.KANISTER}")


def _contents() -> dict[str, str]:
    """`generation/bundle` -> content, of what is on the volume; nothing while no trainer runs."""
    done = kube.attempt("exec", pod(), _HERE, "--container=trainer", "--", "python3", "-c",
                        _CONTENTS)  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else {}


@dataclass
class Bits:
    """The content of each step that the training saved, in every life that it had: the same step
    must always have the same bits."""

    of_step: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Content, and the life that was first seen to have it."""

    def look(self, life: str) -> set[int]:
        """Compare what the present generation has on the volume with other lives; returns the steps
        that another life had too."""
        found = _contents()
        present = max((name.partition("/")[0] for name in found), default="")
        twice = set()
        for bundle, content in found.items():
            if not bundle.startswith(f"{present}/"):
                continue
            step = int(bundle.rpartition("-")[2])
            known, first = self.of_step.setdefault(step, (content, life))
            assert content == known, f"step {step}: {life} has other bits than {first}"
            if first != life:
                twice.add(step)
        return twice

    def go_on(self, life: str, after: int) -> int:
        """Wait until this life has saved a step after that one which an earlier life saved too,
        with equal bits; returns the step."""
        assert any(step > after for step in self.of_step), f"nothing to compare after {after}"
        later = lambda: {step for step in self.look(life) if step > after}  # noqa: E731
        return min(kube.wait(f"a step after {after} that was saved before", later, 240))

"""Restores beneath queues and other owners, on a real cluster: `make e2e-queues`.

Deploys a stack that protects one training for each owner, plain and in a queue of Kueue, with the
real controllers of Kueue, JobSet and Trainer; then restores them again and again while they run,
wait, are evicted, or change their mind in the middle. Prints a line for each restore and ends with
a table; the exit code is 1 if two writers were ever there, a step was lost, or an owner was left
other than it was found.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from cluster.engine import Engine
from tests.e2e import kube, store
from tests.e2e.conftest import Stack, settings
from tests.queues import owners, restores
from tests.queues.owners import NAMESPACE, Owner
from tests.queues.scene import HERE, Scene

_IMAGE = "docker.io/library/holdfast-tools:dev"
_MOUNTED = "/var/ml_model"
#: Snapshots of each training, at different steps, that restores choose from.
_BACKUPS = 3


def main() -> int:
    words = argparse.ArgumentParser(prog="tests.queues", description=__doc__)
    words.add_argument("--restores", type=int, default=200, help="how many, over all owners")
    words.add_argument("--seed", type=int, default=1, help="of snapshots, states and moments")
    words.add_argument("--at-once", type=int, default=4, help="owners that are restored at once")
    words.add_argument("--only", nargs="+", default=[""], help="owners whose names contain one")
    words.add_argument("--keep", action="store_true", help="leave the stack and its owners there")
    chosen = words.parse_args()
    wanted = [each for each in owners.ALL if any(part in each.name for part in chosen.only)]
    scenes = [Scene(each) for each in wanted]
    deployed = Deployed(scenes)
    deployed.remove()  # what a run that was killed left there
    began = time.monotonic()
    try:
        deployed.make()
        print(
            f"{len(scenes)} owners write and are backed up after {time.monotonic() - began:.0f} s"
        )
        outcomes = restores.run(scenes, chosen.restores, chosen.seed, chosen.at_once)
    finally:
        if not chosen.keep:
            deployed.remove()
    print(restores.table(outcomes))
    wrong = sum(bool(each.wrong) for each in outcomes)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(outcomes)} restores in {minutes:.0f} minutes, {wrong} wrong (seed {chosen.seed})")
    return int(wrong > 0)


class Deployed:
    """The stack, the controllers, and one owner for each scene."""

    def __init__(self, scenes: list[Scene]) -> None:
        self._scenes = scenes
        config = settings()
        config["holdfast:workloads"] = {each.name: _workload(each.owner) for each in scenes}
        self._engine = Engine("queues", config, lambda line: None)

    def make(self) -> None:
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for scene in self._scenes:
            kube.apply(_claim(scene.name))
            if scene.owner.queued:
                for each in owners.queue(scene.name):
                    kube.apply(each)
        Stack().give_secret(NAMESPACE)
        self._engine.up()
        print("the stack is deployed", flush=True)
        for scene in self._scenes:
            kube.apply(scene.owner.manifest(_pod(scene)))
        for scene in self._scenes:
            scene.writes_after(0, 180)
        for _ in range(_BACKUPS):
            for scene in self._scenes:
                scene.snapshots |= _backup(scene)

    def remove(self) -> None:
        for scene in self._scenes:
            kube.attempt("delete", scene.owner.resource, scene.name, HERE, "--ignore-not-found",
                         "--cascade=foreground")  # fmt: skip
        self._engine.destroy()
        kube.attempt("delete", "namespace", NAMESPACE, "--ignore-not-found")
        for scene in self._scenes:
            kube.attempt("delete", "clusterqueues.kueue.x-k8s.io", scene.name, "--ignore-not-found")


def _workload(owner: Owner) -> dict[str, Any]:
    return {
        "kind": "protected",
        "namespace": NAMESPACE,
        "run": owner.name,
        "volume": {"kind": "existing-claim", "name": owner.name, "size": "1Gi"},
        "owner": {"kind": owner.kind} | ({} if owner.queued else {"name": owner.name}),
        "schedule": "0 3 1 1 *",
    }


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _pod(scene: Scene) -> dict[str, Any]:
    """The template of its pods: the writer, after what `holdfast init-container` prints."""
    shown = kube.holdfast("init-container", f"--claim={scene.name}", f"--namespace={NAMESPACE}")
    assert shown.returncode == 0, shown.stderr
    pod = yaml.safe_load(shown.stdout)
    writer = {
        "name": "node",
        "image": _IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", (Path(__file__).parent / "writer.py").read_text()],
        "env": [
            {"name": "HOLDFAST_VOLUME", "value": _MOUNTED},
            {"name": "HOLDFAST_RUN", "value": scene.name},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "volume", "mountPath": _MOUNTED}],
    }
    pod["spec"] |= {"containers": [writer], "restartPolicy": "Never"}
    return pod


def _backup(scene: Scene) -> dict[str, int]:
    """A backup of a volume that is written to; its snapshot and the step in it."""
    done = kube.holdfast(
        "backup",
        f"--pause={scene.pause}",
        f"--workload={scene.name}",
        f"--claim={scene.name}",
        f"--namespace={NAMESPACE}",
        "--output=json",
    )
    assert done.returncode == 0, done.stderr
    snapshot = json.loads(done.stdout)["artifacts"]["snapshot"]["id"]
    environment = {"configuration": f"holdfast-{scene.name}", "namespace": NAMESPACE}
    shown = store.holdfast("show", snapshot, "--output=json", **environment)
    assert shown.returncode == 0, shown.stderr
    bundles = json.loads(shown.stdout)["bundles"]
    return {snapshot: max(int(each["name"].removeprefix("step-")) for each in bundles)}


if __name__ == "__main__":
    sys.exit(main())

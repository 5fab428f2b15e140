"""The real controllers of Kueue, JobSet and Kubeflow's Trainer, as pods with their own manifests.

They are built from their Go modules like all else here, and their manifests are those of the same
modules, by `kubectl kustomize`; only images, pull policies and requests are changed.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import node
from cluster.build import QUEUES, build, module_directory
from cluster.errors import ClusterProblem
from cluster.images import Image, program
from cluster.places import BUILT

#: What Kueue manages in the tests; it fails to start for a kind that the cluster does not know.
_MANAGED = (
    "batch/job",
    "jobset.x-k8s.io/jobset",
    "trainer.kubeflow.org/trainjob",
    "deployment",
    "statefulset",
)
#: What other objects of the same manifests are in, or of.
_BEFORE_OTHERS = ("Namespace", "CustomResourceDefinition")
_LIMIT = "300s"


@dataclass(frozen=True)
class Controller:
    """One of them: the module of `cluster/modules` and the Go module that have it, its program,
    the folder of its manifests, and the Deployment that these declare."""

    module: str
    source: str
    program: str
    manifests: str
    namespace: str
    deployment: str

    @property
    def image(self) -> str:
        return f"localhost/{self.program}:dev"


JOBSET = Controller(
    module="trainer",
    source="sigs.k8s.io/jobset",
    program="jobset",
    manifests="config/default",
    namespace="jobset-system",
    deployment="jobset-controller-manager",
)
TRAINER = Controller(
    module="trainer",
    source="github.com/kubeflow/trainer/v2",
    program="trainer-controller-manager",
    manifests="manifests/overlays/manager",
    namespace="kubeflow-system",
    deployment="kubeflow-trainer-controller-manager",
)
KUEUE = Controller(
    module="kueue",
    source="sigs.k8s.io/kueue",
    program="kueue",
    manifests="config/default",
    namespace="kueue-system",
    deployment="kueue-controller-manager",
)
#: In this order: each knows the kinds of those before it.
ALL = (JOBSET, TRAINER, KUEUE)


def images() -> list[Image]:
    """One image for each; they must have been built."""
    return [
        Image(each.image, (program(each.program),), (f"/{each.program}",), "65532:65532")
        for each in ALL
    ]


def build_all() -> None:
    """Build them from their modules, where they are not there."""
    build([module.name for module in QUEUES])


def install() -> None:
    """Apply their manifests, and wait until each answers."""
    for each in ALL:
        objects = _manifests(each)
        first = [one for one in objects if one["kind"] in _BEFORE_OTHERS]
        _apply(first)
        _apply([one for one in objects if one not in first])
        _kubectl("rollout", "status", f"deployment/{each.deployment}", f"--timeout={_LIMIT}",
                 f"--namespace={each.namespace}")  # fmt: skip


def _manifests(controller: Controller) -> list[dict[str, Any]]:
    source = module_directory(controller.module, controller.source)
    folder = BUILT / "build" / f"manifests-{controller.program}"
    shutil.rmtree(folder, ignore_errors=True)
    top = controller.manifests.partition("/")[0]
    shutil.copytree(source / top, folder / top, copy_function=shutil.copyfile)
    for directory in [folder, *folder.rglob("*/")]:
        directory.chmod(0o755)  # those of a module are read-only
    _leave_out_what_is_elsewhere(folder / controller.manifests / "kustomization.yaml")
    done = subprocess.run(
        [node.program("kubectl"), "kustomize", str(folder / controller.manifests)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ClusterProblem(f"the manifests of {controller.program}: {done.stderr.strip()}")
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in objects:
        if one["kind"] == "Deployment":
            _run_ours(one, controller)
        if one["kind"] == "ConfigMap" and "controller_manager_config.yaml" in one.get("data", {}):
            _configure(one["data"], controller)
    return objects


def _leave_out_what_is_elsewhere(kustomization: Path) -> None:
    """Trainer's manifests take JobSet's from the network: it is installed before."""
    config = yaml.safe_load(kustomization.read_text())
    config["resources"] = [one for one in config["resources"] if "third-party" not in one]
    kustomization.write_text(yaml.safe_dump(config))


def _run_ours(deployment: dict[str, Any], controller: Controller) -> None:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        container["image"] = controller.image
        container["imagePullPolicy"] = "Never"
        container["command"] = [f"/{controller.program}"]
        container["resources"] = {"requests": {"cpu": "10m", "memory": "64Mi"}}


def _configure(data: dict[str, str], controller: Controller) -> None:
    """Kueue: only the kinds of the tests, and only what names a queue."""
    if controller is not KUEUE:
        return
    config = yaml.safe_load(data["controller_manager_config.yaml"])
    config["integrations"] = {"frameworks": list(_MANAGED)}
    data["controller_manager_config.yaml"] = yaml.safe_dump(config)


def _apply(objects: list[dict[str, Any]]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    _kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", given=text)
    for one in objects:
        if one["kind"] == "CustomResourceDefinition":
            _kubectl("wait", "--for=jsonpath={.status.acceptedNames.kind}", f"--timeout={_LIMIT}",
                     f"crd/{one['metadata']['name']}")  # fmt: skip


def _kubectl(*arguments: str, given: str | None = None) -> None:
    done = subprocess.run(node.kubectl(*arguments), input=given, capture_output=True, text=True)
    if done.returncode:
        raise ClusterProblem(f"kubectl {' '.join(arguments)} failed: {done.stderr.strip()}")

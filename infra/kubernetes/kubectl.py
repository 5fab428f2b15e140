"""The stack's cluster, asked by kubectl: it knows every way in that a kubeconfig can name."""

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pulumi

from infra.manifests import Manifest
from infra.settings import EksAccess, KubernetesSettings

REQUEST_SECONDS = 20
#: What kubectl's own library logs beside the message, with time and file.
_LOG_LINE = re.compile(r"[IWEF]\d{4} ")


class ClusterError(pulumi.RunError):
    """The cluster does not allow the change, or does not answer: what, why, and what to do."""


class NoClusterYet(ClusterError):
    """The EKS cluster is not there: the first `up` makes it."""


class Kubectl:
    """Questions to one cluster. Makes a kubeconfig for EKS when it is first asked."""

    def __init__(self, access: KubernetesSettings | EksAccess) -> None:
        self._access = access
        self._known: list[str] | None = None
        self._lock = threading.Lock()
        self.absent: set[str] = set()
        """Objects that were not there when the program began: ``kind/name`` of volumes and claims,
        which only the creation in this very run may explain."""

    def reach(self) -> list[str]:
        """The flags with which kubectl reaches the cluster.

        Raises:
            NoClusterYet: AWS answers, and has no cluster of this name.
            ClusterError: a program is missing, or AWS refuses.
        """
        with self._lock:
            if self._known is None:
                _find("kubectl")
                self._known = self._flags()
            return self._known

    def names(self, kinds: str, namespace: str, *options: str) -> list[str]:
        """``kind/name`` of each object that is there."""
        command = ["get", kinds, f"--namespace={namespace}", "--output=name", *options]
        return self._kubectl(command, f"list {kinds} in {namespace}").split()

    def objects(
        self, kind: str, *options: str, names: Sequence[str] = (), namespace: str | None = None
    ) -> list[Manifest]:
        """The named objects that are there; without names, all."""
        place = [f"--namespace={namespace}"] if namespace else []
        command = ["get", kind, *names, *place, "--output=json", *options]
        where = f" in {namespace}" if namespace else ""
        answer = self._kubectl(command, f"list {kind}{where}")
        document = json.loads(answer) if answer.strip() else {"items": []}
        return document.get("items", [document])

    def pods_with(self, claim: str, namespace: str) -> list[str]:
        """The pods that hold a claim, finished ones among them."""
        return [
            pod["metadata"]["name"]
            for pod in self.objects("pods", namespace=namespace)
            for volume in pod["spec"].get("volumes", ())
            if volume.get("persistentVolumeClaim", {}).get("claimName") == claim
        ]

    def refusal(self, manifest: Manifest) -> str:
        """Why the API server would not create an object, which it is asked without creating it;
        empty where it would."""
        command = ["create", "--dry-run=server", "--output=name", "--filename=-"]
        try:
            self._kubectl(command, "ask what is allowed", json.dumps(manifest))
        except NoClusterYet:
            raise
        except ClusterError as error:
            return str(error)
        return ""

    def release(self, volume: str) -> None:
        """Let a PersistentVolume forget the claim that is gone, so that the next one of the same
        name gets it. Its data and the name of its claim stay."""
        patch = '[{"op": "remove", "path": "/spec/claimRef/uid"}]'
        command = ["patch", "persistentvolume", volume, "--type=json", f"--patch={patch}"]
        self._kubectl(command, f"release PersistentVolume {volume}")

    def _kubectl(self, command: list[str], purpose: str, given: str | None = None) -> str:
        usual = [] if command[0] != "get" else ["--ignore-not-found"]
        flags = [*usual, f"--request-timeout={REQUEST_SECONDS}s", *self.reach()]
        return _run("kubectl", [*command, *flags], purpose, given)

    def _flags(self) -> list[str]:
        access = self._access
        if isinstance(access, KubernetesSettings):
            flags = {"context": access.context, "kubeconfig": access.kubeconfig}
            return [f"--{name}={value}" for name, value in flags.items() if value]
        # Removed with this object, at the end of the program.
        self._folder = tempfile.TemporaryDirectory(prefix="holdfast-")
        kubeconfig = f"--kubeconfig={Path(self._folder.name) / 'kubeconfig'}"
        command = ["eks", "update-kubeconfig", f"--name={access.name}", f"--region={access.region}"]
        try:
            _run("aws", [*command, kubeconfig], f"reach cluster {access.name}")
        except ClusterError as error:
            if "ResourceNotFoundException" in str(error):
                raise NoClusterYet(str(error)) from None
            raise
        return [kubeconfig]


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ClusterError(
            f"{program} is not on the PATH: install it; before `up` changes a volume or a Job it "
            "asks the cluster by it"
        )
    return path


def _run(program: str, arguments: list[str], purpose: str, given: str | None = None) -> str:
    command = [_find(program), *arguments]
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if not _LOG_LINE.match(line)]
        reason = " ".join(" ".join(lines).split())
        raise ClusterError(
            f"{program} cannot {purpose} ({reason}): "
            "check the context and your rights, then run pulumi again"
        )
    return result.stdout

"""`holdfast` as an operator runs it: with the variables of a workload's backup CronJob."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from sandbox.cluster import processes
from sandbox.cluster.cluster import Cluster
from sandbox.cluster.jobs import CronJob
from sandbox.cluster.pods import Pod
from sandbox.errors import SandboxError


@dataclass(frozen=True)
class Operator:
    """Asks the sandbox's cluster for what a Blueprint can do, as a person asks a real one."""

    cluster: Cluster
    cron: CronJob

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`holdfast` with these arguments, whatever it ends with."""
        environ = processes.inherited(self.cluster.project)
        environ |= self.environment() | self.cluster.extra_environment("")
        command = [shutil.which("holdfast", path=environ["PATH"]) or "holdfast", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def ask(self, *arguments: str) -> str:
        """What it printed; its failure is one of the story."""
        done = self.run(*arguments)
        if done.returncode:
            raise SandboxError(f"holdfast {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def result(self, *arguments: str) -> dict[str, Any]:
        """The JSON that it printed."""
        return json.loads(self.ask(*arguments, "--output", "json"))

    def environment(self) -> dict[str, str]:
        """The variables of the CronJob's container that asks for backups."""
        spec = self.cron.spec["jobTemplate"]["spec"]["template"]["spec"]
        (asking,) = (each for each in [*spec["containers"], *spec.get("initContainers", [])]
                     if each["name"] == "backup")  # fmt: skip
        return Pod("operator", self.cron.namespace, spec, self.cluster).environment(asking)

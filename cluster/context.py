"""Which cluster the commands mean: one of the caller's contexts, or what `make cluster` started."""

import functools
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ClusterProblem
from cluster.places import BUILT, KUBECONFIG, tools_first

#: Names a context of the caller's kubeconfig; `make e2e CONTEXT=…` sets it.
CONTEXT = "HOLDFAST_CONTEXT"


def kubeconfig() -> str:
    """The named context alone; else the caller's kubeconfig, or that of `make cluster`."""
    if context := os.environ.get(CONTEXT):
        return str(only(context))
    if path := os.environ.get("KUBECONFIG"):
        return path
    return str(KUBECONFIG if KUBECONFIG.exists() else Path.home() / ".kube" / "config")


def environment() -> dict[str, str]:
    """With our tools in front, and the KUBECONFIG of the cluster that is meant."""
    return {**tools_first(), "KUBECONFIG": kubeconfig()}


@functools.cache
def only(context: str) -> Path:
    """A kubeconfig with nothing but one context, so that no command can mean another cluster.

    Raises:
        ClusterProblem: there is no such context.
    """
    command = ["config", "view", "--raw", "--minify", "--flatten", f"--context={context}"]
    shown = _kubectl(command, tools_first())
    if shown.returncode:
        named = _kubectl(["config", "get-contexts", "--output=name"], tools_first()).stdout.split()
        raise ClusterProblem(
            f"the kubeconfig has no context {context}: there is {', '.join(named) or 'none'}"
        )
    file = BUILT / "contexts" / f"{re.sub(r'[^A-Za-z0-9_.@-]', '_', context)}.kubeconfig"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(shown.stdout)
    return file


def identity(environment: Mapping[str, str], context: str | None = None) -> str:
    """What no other cluster has: the uid of its namespace kube-system.

    Raises:
        ClusterProblem: nothing answers, or the login is refused.
    """
    named = [f"--context={context}"] if context else []
    asked = ["get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}"]
    done = _kubectl([*named, *asked, "--request-timeout=10s"], environment)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterProblem(
            f"no cluster answers by {environment['KUBECONFIG']} ({why}): start one by "
            "`make cluster`, or name yours by KUBECONFIG"
        )
    return done.stdout


def _kubectl(
    arguments: list[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["kubectl", *arguments], env=dict(environment), capture_output=True, text=True
        )
    except FileNotFoundError:
        raise ClusterProblem(
            "there is no kubectl: install it, or let `make cluster` build one"
        ) from None

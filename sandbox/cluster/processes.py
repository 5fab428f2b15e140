"""What stands in for a container: an environment, replaced paths, a process tree."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from sandbox.errors import Unsupported

#: Set for every process of a pod, so that none escapes a kill by a session of its own.
TAG = "HOLDFAST_SANDBOX_TAG"
#: What a container inherits from this machine; the rest comes from its own object.
INHERITED = ("HOME", "USER", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")

#: ConfigMaps or Secrets by name, each with its texts by key
Texts = Mapping[str, Mapping[str, str]]

_REFERENCE = re.compile(r"\$(\$)?\(([A-Za-z_][\w.-]*)\)")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' `$(VAR)`: an unknown name stays as it is, `$$(VAR)` is a literal `$(VAR)`."""

    def replacement(match: re.Match[str]) -> str:
        return match[0][1:] if match[1] else values.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def repoint(value: str, mounts: Mapping[str, Path]) -> str:
    """Replace every mount path in `value` by the directory that stands for it.

    A path starts at the beginning, after `file://`, or after a separator such as `:` or `=`. The
    longest mount path wins, and a replacement is not replaced again.
    """
    if not mounts:
        return value
    longest_first = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    pattern = rf"(?:(?<=file://)|(?<![\w./-]))({longest_first})(?=/|[^\w.-]|$)"
    return re.sub(pattern, lambda match: str(mounts[match[1]]), value)


def environment(
    container: Mapping[str, Any],
    configmaps: Texts,
    mounts: Mapping[str, Path],
    secrets: Texts | None = None,
) -> dict[str, str]:
    """The container's own variables: `envFrom`, then `env`, expanded, with mount paths replaced.

    `configmaps` and `secrets` are those of the pod's namespace by name.
    """
    values: dict[str, str] = {}
    where = f"container {container['name']!r}"
    kinds = {"configMap": ("ConfigMap", configmaps), "secret": ("Secret", secrets or {})}
    for source in container.get("envFrom", []):
        found = next((key for key in kinds if f"{key}Ref" in source), None)
        if found is None:
            raise Unsupported(f"{where}: envFrom {', '.join(source)} is not run here")
        data = _texts(where, kinds[found], source[f"{found}Ref"])
        values |= {source.get("prefix", "") + key: text for key, text in data.items()}
    for entry in container.get("env", []):
        if source := entry.get("valueFrom"):
            found = next((key for key in kinds if f"{key}KeyRef" in source), None)
            if found is None:
                kind = ", ".join(source)
                raise Unsupported(f"{where}: env {entry['name']}: {kind} is not run here")
            reference = source[f"{found}KeyRef"]
            data = _texts(where, kinds[found], reference)
            if (text := data.get(reference["key"])) is not None:
                values[entry["name"]] = text
            elif not reference.get("optional"):
                what = f"{kinds[found][0]} {reference['name']!r}"
                raise Unsupported(f"{where}: {what} has no key {reference['key']!r}")
        else:
            values[entry["name"]] = expand(str(entry.get("value", "")), values)
    return {name: repoint(value, mounts) for name, value in values.items()}


def _texts(where: str, kind: tuple[str, Texts], reference: Mapping[str, Any]) -> Mapping[str, str]:
    """What is in the ConfigMap or Secret; nothing if it may be missing and is."""
    name, there = kind
    data = there.get(reference["name"])
    if data is None and not reference.get("optional"):
        raise Unsupported(f"{where}: {name} {reference['name']!r} is not in the graph")
    return data or {}


def inherited(project: Path) -> dict[str, str]:
    """What stands in for the image: this interpreter's commands first, our packages importable."""
    bin_directory = str(Path(sys.executable).parent)
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return kept | {
        "PATH": os.pathsep.join((bin_directory, os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": str(project),
        "PYTHONUNBUFFERED": "1",
    }


def start(
    command: list[str], environ: Mapping[str, str], directory: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start a container's main process in a session of its own, output appended to `log`."""
    with log.open("ab") as output:
        try:
            return subprocess.Popen(
                command, env=dict(environ), cwd=directory, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:  # the kubelet's StartError: exit code 128
            output.write(f"cannot start {command[0]!r}: {error.strerror}\n".encode())
            return subprocess.Popen(["/bin/sh", "-c", "exit 128"], start_new_session=True)


def tagged(prefix: str) -> Iterator[psutil.Process]:
    """Every living process whose tag begins with `prefix`, whatever its parent or session."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(TAG, "").startswith(prefix):
                yield process
        except (psutil.Error, OSError):
            continue  # gone, a zombie, or not readable by us


def _children(processes: list[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        with suppress(psutil.Error):
            yield from process.children(recursive=True)


def kill_tree(prefix: str) -> int:
    """SIGKILL everything tagged with `prefix` until nothing is left; returns how many.

    Children too: PostgreSQL writes the titles of its processes over their environment.
    """
    killed: set[int] = set()
    while victims := list(tagged(prefix)):
        for process in [*victims, *_children(victims)]:
            killed.add(process.pid)
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        time.sleep(0.02)  # not psutil's wait: it would reap a child before its Popen does
    return len(killed)

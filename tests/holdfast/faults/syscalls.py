"""What a process really asks of the kernel, by strace: its trace, or its death at the n-th call.

This reaches what no patch of `os` can: the libraries in Rust and C, every thread, and the true
order of what is written, synced and named.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TRACED = (
    "openat,write,pwrite64,copy_file_range,fsync,rename,link,linkat,mkdir,mkdirat,"
    "unlink,unlinkat,rmdir"
)
DRIVER = """
import sys
from pathlib import Path
from tests.holdfast.faults import test_kill_everywhere as scenes
from tests.holdfast.faults.killing import Place
getattr(scenes, sys.argv[1])(Place(Path(sys.argv[2])))
"""

_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")


@cache
def strace() -> str:
    """Where strace is; skips the test, with the remedy, where it is not or may not trace."""
    found = shutil.which("strace")
    if not found:
        pytest.skip("no strace: install the package of that name (Linux only)")
    probe = subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.decode().strip()[:200]}")
    return found


def traced(options: list[str], act: str, root: Path, code: str = DRIVER) -> int:
    """Run an act of test_kill_everywhere on the place at ``root``; the status, -9 if killed."""
    command = [
        strace(),
        "-f",
        *options,
        sys.executable,
        "-c",
        code,
        act,
        str(root),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def killed_at(call: str, number: int, act: str, root: Path, code: str = DRIVER) -> None:
    """Run an act until one of its threads makes this call for the n-th time, and dies of it."""
    options = ["-o", "/dev/null", "-e", f"trace={call}"]  # with seccomp no signal is injected
    options += ["-e", f"inject={call}:signal=KILL:when={number}"]
    assert traced(options, act, root, code) == -9, f"{call} was never made {number} times"


def trace(act: str, root: Path) -> list[str]:
    """The calls of an act, in order."""
    log = root / "trace"
    options = [
        "--seccomp-bpf",
        "-y",
        "-s",
        "4096",
        "-e",
        f"trace={TRACED}",
        "-e",
        "status=successful",
    ]
    assert traced([*options, "-o", str(log)], act, root) == 0
    return log.read_text().splitlines()


@dataclass
class Disk:
    """What a power cut would lose at each point of a trace.

    ``unsynced``: files with bytes that are not on the disk. ``unnamed``: directories with entries
    that are not. ``published`` are the names that appeared; ``problems`` what appeared too early.
    """

    root: Path
    unsynced: set[Path] = field(default_factory=set)
    unnamed: set[Path] = field(default_factory=set)
    published: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def replay(self, lines: list[str]) -> Disk:
        for line in lines:
            if match := _CALL.match(line):
                self._call(match[1], match[2])
        self.problems += [f"{path} has entries that are not synced" for path in self._open()]
        return self

    def _call(self, call: str, text: str) -> None:
        names = [Path(name) for name in _STRING.findall(text)]
        descriptor = _DESCRIPTOR.match(text)
        at = Path(descriptor[1]) if descriptor else None
        match call:
            case "openat" if "O_CREAT" in text:
                self._entry((at or Path()) / names[0])
            case "mkdir" | "mkdirat":
                self._entry((at or Path()) / names[0])
            case "write" | "pwrite64" | "copy_file_range" if at and at.is_relative_to(self.root):
                self.unsynced.add(at)
            case "fsync" if at:
                self.unsynced.discard(at)
                self.unnamed.discard(at)
            case "rename" | "link" | "linkat":
                self._name(*names[:2])
            case "unlink" | "rmdir":
                self._gone(names[0])
            case "unlinkat" if at:
                self._gone(at / names[0])

    def _entry(self, path: Path) -> None:
        if path.is_relative_to(self.root) and path.name not in (".lock", "trace"):
            self.unnamed.add(path.parent)

    def _name(self, old: Path, new: Path) -> None:
        """A name appears; all that is below it must be on the disk, and what came before it too."""
        if not hidden(new):
            self.published.append(new.relative_to(self.root))
        if hidden(old) and not hidden(new):
            lost = [path for path in self.unsynced | self.unnamed if path.is_relative_to(old)]
            if {"manifests", "snapshots"} & set(new.parts):
                lost += [path for path in self._open() if path.is_relative_to(self.root / "store")]
            self.problems += [f"{new} was named before {path} was synced" for path in sorted(lost)]
        for paths in (self.unsynced, self.unnamed):
            moved = {path for path in paths if path.is_relative_to(old)}
            paths -= moved
            paths |= {new / path.relative_to(old) for path in moved}
        self._entry(new)

    def _gone(self, path: Path) -> None:
        self.unsynced.discard(path)
        self.unnamed.discard(path)
        for parent in path.parents:
            if parent.name.startswith(".tmp-delete-") and parent.parent in self.unnamed:
                self.problems.append(
                    f"{path} was removed before the new name of {parent} was synced"
                )

    def _open(self) -> list[Path]:
        """Directories that anybody reads, with entries that a power cut would lose."""
        mine = [self.root / "volume", self.root / "store"]
        return sorted(
            path
            for path in self.unnamed
            if not hidden(path) and any(path.is_relative_to(top) for top in mine)
        )


def hidden(path: Path) -> bool:
    """Whether nobody takes what is there for complete."""
    return any(part.startswith((".tmp", ".pull-")) for part in path.parts)

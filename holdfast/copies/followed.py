"""What an application on a volume follows, such as an alias, and what a person put there instead.

``<run>/.model.json`` says which model of the store the run follows: what a starting pod asked for.
A switch to a snapshot or an older generation is *held*: ``.stage.json`` of the new generation says
since when, and until that which is followed moves later than this, nothing takes its place.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast import durable
from holdfast.manifest import canonical
from holdfast.volume import Volume

#: stays in the generation that a stage becomes
MARKER = ".stage.json"
FOLLOWED = ".model.json"
#: in a marker; and a label of snapshots, so that a volume that is filled anew holds it, too
HELD = "held"
_DRAFT = f"{durable.TEMPORARY}model"


def marker(directory: Path) -> dict[str, Any]:
    """What is recorded of a stage or a generation; nothing where there is no record."""
    return _read(directory / MARKER)


def hold(directory: Path, at: datetime | None = None, **fields: str) -> None:
    """Record that a person put a stage or a generation there, now unless told."""
    held = (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = {"format": 1, **marker(directory), **fields, HELD: held}
    durable.write_durably(directory / MARKER, canonical(record))


def held_since(volume: Volume) -> datetime | None:
    """When a person put the present generation there; None if a pod did, or a training."""
    present = volume.present()
    return None if present is None else moment(marker(volume.generation_path(present)).get(HELD))


def moment(value: object) -> datetime | None:
    """A time as it is recorded; None for anything else."""
    try:
        return datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def followed(volume: Volume) -> str | None:
    """What the run followed when it was asked last; None if it never did."""
    name = _read(volume.run_path / FOLLOWED).get("model")
    return name if isinstance(name, str) else None


def follow(volume: Volume, name: str) -> None:
    """Record what the run follows. A volume that cannot be written to remembers nothing."""
    if followed(volume) == name:
        return
    draft = volume.run_path / _DRAFT  # one name, so that the next one removes what a kill left
    with suppress(OSError):
        draft.unlink(missing_ok=True)
        durable.create_file(draft, canonical({"format": 1, "model": name}))
        draft.replace(volume.run_path / FOLLOWED)
        durable.fsync_directory(volume.run_path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

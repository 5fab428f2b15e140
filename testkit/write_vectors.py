"""Write the test vectors of the format to docs/format/vectors: `python -m testkit.write_vectors`.

They were made once and stay as they are: other implementations check themselves against them. A new
rule gets a new case. `tests/holdfast/test_vectors.py` compares the files with the cases, and holds
our own reader to all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from testkit.vector_stores import NEWEST, documents, stores
from testkit.vectors import LABELS, NAMES, ORDERS, Case, Fields, bundles, manifests

ROOT = Path(__file__).parents[1] / "docs/format/vectors"

CASES: dict[str, Callable[[], Iterator[Case]]] = {"manifests": manifests, "bundles": bundles}


def expected(cases: Iterator[Case]) -> Fields:
    """What a reader must find, by the name of the case."""
    return {
        case.name: {"valid": True} if case.valid else {"valid": False, "reason": case.reason}
        for case in cases
    }


def files() -> dict[str, bytes]:
    """All files of the vectors by their path below `ROOT`, but for the README."""
    made = {
        "names.json": _pretty(NAMES),
        "labels.json": _pretty(LABELS),
        "order.json": _pretty(
            {
                title: [{"name": name, "labels": labels} for name, labels in bundles_of]
                for title, bundles_of in ORDERS.items()
            }
        ),
    }
    for kind, cases in CASES.items():
        made[f"{kind}.json"] = _pretty(expected(cases()))
        for case in cases():
            for path, data in case.content.items():
                name = f"{case.name}/{path}" if path else f"{case.name}.json"
                made[f"{kind}/{name}"] = data
    made["snapshots.json"] = _pretty({"key": NEWEST, "documents": expected(documents())})
    for case in documents():
        made[f"snapshots/{case.name}.json"] = case.content[""]
    made["stores.json"] = _pretty({case.name: case.expected() for case in stores()})
    for store in stores():
        made |= {f"stores/{store.name}/{key}": data for key, data in store.objects.items()}
    return made


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode()


def write(root: Path) -> None:
    """Write all vectors, in place of what was there."""
    for kind in (*CASES, "snapshots", "stores"):
        shutil.rmtree(root / kind, ignore_errors=True)
    for path, data in files().items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


if __name__ == "__main__":
    write(ROOT)

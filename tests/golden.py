"""Golden files: compared as text, shown as a diff, rewritten with UPDATE_GOLDEN=1."""

import difflib
import os
from pathlib import Path

import pytest


def compare(path: Path, actual: str) -> None:
    """Fail with a readable diff when ``actual`` is not what the reviewed file says."""
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(actual, encoding="utf-8")
        return
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    if actual != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), actual.splitlines(), path.name, "now", lineterm="", n=3
        )
        pytest.fail(
            "\n".join([*lines, "", "If this is meant: UPDATE_GOLDEN=1, then review the file."]),
            pytrace=False,
        )

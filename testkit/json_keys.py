"""The keys of a verb's JSON, as docs/cli.md lists them: what was printed, written as one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/cli.md"
_ROW = re.compile(r"^\| (`.+`.*) \| (.+) \|$", re.M)
#: objects whose own keys are names, paths, labels or kinds
BY_NAME = {
    "added",
    "artifacts",
    "changed",
    "checked",
    "counts",
    "kept",
    "labels",
    "lineage",
    "outputs",
    "removed",
}


def documented(page: Path = PAGE) -> dict[str, str]:
    """The keys by what the first column says of the verb."""
    section = page.read_text().split("## Keys of JSON\n", 1)[1].split("\n## ", 1)[0]
    return {verb.replace("`", ""): keys for verb, keys in _ROW.findall(section)}


def keys_of(document: Mapping[str, Any]) -> str:
    """The keys in order; those of a list's objects, and of an object, in brackets."""
    return ", ".join(f"`{key}`{_below(key, value)}" for key, value in document.items())


def _below(key: str, value: Any) -> str:
    if key in BY_NAME:
        return ""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        merged = {name: held for item in value for name, held in item.items()}
        for item in value:  # what is null in one may have keys in another
            merged |= {name: held for name, held in item.items() if held}
        return f" [{keys_of(merged)}]"
    return f" ({keys_of(value)})" if isinstance(value, dict) and value else ""

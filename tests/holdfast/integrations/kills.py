"""The stock framework and Holdfast, killed at the same points of a save, side by side."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

#: how many points of a save are tried, stock and protected alike
KILLS = int(os.environ.get("HOLDFAST_KILLS", "100"))


def needs(
    *packages: str, how: str = "`make test-frameworks` installs it"
) -> list[pytest.MarkDecorator]:
    """The marks of a test module that trains with these packages."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    reason = f"{', '.join(missing)} is not installed: {how}"
    return [pytest.mark.frameworks, pytest.mark.skipif(bool(missing), reason=reason)]


def play(framework: str, *variants: str, **environment: str) -> list[Counter[str]]:
    """What became of the trainings, for each variant (`stock`, `holdfast`)."""
    labs = [_start(framework, variant, KILLS, environment) for variant in variants]
    ended = [(lab, *lab.communicate()) for lab in labs]
    for lab, _, errors in ended:
        assert lab.returncode == 0, errors
    return [
        _ends(variant, json.loads(out))
        for variant, (_, out, _) in zip(variants, ended, strict=True)
    ]


def _start(
    framework: str, variant: str, kills: int, environment: dict[str, str]
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.holdfast.integrations.lab", framework, variant]
    return subprocess.Popen(
        [*command, "--kills", str(kills)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _ends(variant: str, found: dict[str, Any]) -> Counter[str]:
    ends = Counter(found["ends"])
    print(f"{variant}: {found['calls']} calls in a save, ends of {found['kills']} kills: {ends}")
    # Threads make the number of calls vary a little: the last points may lie beyond the end.
    assert ends.pop("not killed", 0) <= found["kills"] // 20
    return ends

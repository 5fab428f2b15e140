"""A volume and a store with two bundles each, which no test changes."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from holdfast.cli import app


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables that name them. Read only."""
    root = tmp_path_factory.mktemp("places")
    environment = {
        "PATH": os.environ["PATH"],
        "HOLDFAST_VOLUME": str(root / "volume"),
        "HOLDFAST_STORE": (root / "store" / "team" / "prod").as_uri(),
        "HOLDFAST_OWNER": "team/prod",
        "HOLDFAST_WORKLOAD": "gpt",
        "HOLDFAST_RUN": "gpt",
    }
    for name in ("volume", "store", "out"):
        (root / name).mkdir()
    for step in ("1", "2"):
        (root / "out" / "f").write_text(step)
        for verb in (["commit", str(root / "out"), "--step", step], ["push"]):
            done = CliRunner().invoke(app, verb, env=environment)
            assert done.exit_code == 0, done.output
    return environment

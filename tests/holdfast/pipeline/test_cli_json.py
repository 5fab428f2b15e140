"""docs/cli.md lists the keys of what the verbs of a pipeline print as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from testkit.json_keys import documented, keys_of
from testkit.tracking import Tracking

pytestmark = pytest.mark.pipeline


def test_the_page_lists_the_keys_of_each_verb(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.setenv("HOLDFAST_STORE", (tmp_path / "kept/team/prod").as_uri())
    monkeypatch.setenv("HOLDFAST_OWNER", "team/prod")
    monkeypatch.setenv("HOLDFAST_ARTIFACTS", str(tracking.artifacts))
    tracking.log({"weights": b"w"}, model="churn", dataset="0" * 64)  # which nobody has
    (tracking.artifacts / "link").symlink_to("weights")
    printed = {}
    for verb in ("push", "verify", "check"):
        done = CliRunner().invoke(app, ["pipeline", verb, "-o", "json"])
        assert done.exit_code == 0, done.output
        printed[verb] = keys_of(json.loads(done.stdout))
    pulled = CliRunner().invoke(app, ["pipeline", "pull", "--replace", "-o", "json"])
    assert pulled.exit_code == 0, pulled.output
    printed["pull"] = keys_of(json.loads(pulled.stdout))

    page = documented()

    assert printed["push"] == page["pipeline push"]
    assert printed["verify"] == printed["check"] == page["pipeline verify, check"]
    assert printed["pull"] == page["pipeline pull"]

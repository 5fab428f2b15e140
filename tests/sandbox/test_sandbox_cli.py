import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from sandbox import stack
from sandbox.cli import app
from sandbox.cluster.cluster import MARKER, claim, remove
from sandbox.errors import SandboxError
from tests.sandbox.tiny import PROJECT


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pretend(state: Path, **about: Any) -> None:
    """A folder as a sandbox leaves it."""
    state.mkdir()
    (state / "volumes").mkdir()
    (state / MARKER).write_text(json.dumps({"identity": "none-such", **about}))


def test_down_removes_the_folder_of_a_sandbox_whose_process_is_gone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    pretend(tmp_path / "state", pid=child.pid, created=0.0)
    assert run("down", "--state", tmp_path / "state").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_down_leaves_folders_alone_that_no_sandbox_made(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    result = run("down", "--state", tmp_path)
    assert result.exit_code == 1
    assert "holds no sandbox" in result.stderr
    assert (tmp_path / "precious").read_text() == "x"


def test_down_does_not_stop_a_process_that_only_has_the_recorded_number(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        pretend(
            tmp_path / "state", pid=other.pid, created=psutil.Process(other.pid).create_time() - 9
        )
        assert run("down", "--state", tmp_path / "state").exit_code == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_folder_that_holds_other_files_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(SandboxError, match="not empty"):
        claim(tmp_path)


def test_a_folder_whose_sandbox_still_runs_is_not_taken_over(tmp_path: Path) -> None:
    claim(tmp_path / "state")  # by this very process
    with pytest.raises(SandboxError, match="a sandbox runs"):
        claim(tmp_path / "state")
    remove(tmp_path / "state")


def test_status_without_a_sandbox_says_how_to_start_one(tmp_path: Path) -> None:
    result = run("status", "--state", tmp_path)
    assert result.exit_code == 1
    assert "`up`" in result.stderr


def test_a_stack_that_does_not_exist_is_misuse(tmp_path: Path) -> None:
    result = run("up", "--stack", "none-such", "--state", tmp_path / "state")
    assert result.exit_code == 2
    assert "none-such" in result.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_up_runs_the_local_stack_names_what_it_cannot_run_and_down_leaves_nothing(
    tmp_path: Path,
) -> None:
    """The real graph; torch is not needed to see that its pod starts."""

    def sandbox(*arguments: str) -> str:
        command = [sys.executable, "-m", "sandbox", *arguments, "--state", str(tmp_path / "state")]
        return subprocess.run(
            command, cwd=PROJECT, check=True, capture_output=True, text=True
        ).stdout

    told = sandbox("up", "--speed", "1")
    try:
        shown = json.loads(sandbox("status", "--output", "json"))
    finally:
        sandbox("down")
    assert "Job training/gpt" in told
    for named in (
        "Namespace",
        "Role ",
        "ValidatingAdmissionPolicy",
        "Release",
        "prepare-",
    ):
        assert named in told
    assert [job["name"] for job in shown["jobs"]] == ["gpt"]
    assert {cron["name"] for cron in shown["cronjobs"]} == {"gpt-backup", "holdfast-prune"}
    assert shown["pods"][0]["name"] == "gpt-1"
    assert list(tmp_path.iterdir()) == []


def test_the_graph_of_the_local_stack_is_what_the_sandbox_runs() -> None:
    told = stack.read("local")
    kinds = {manifest["kind"] for manifest in told.objects}
    assert {"Job", "CronJob", "Blueprint", "ConfigMap", "PersistentVolumeClaim"} <= kinds
    assert sum(told.counts.values()) == len(told.objects) + len(told.others)

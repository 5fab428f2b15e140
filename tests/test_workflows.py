"""The pipelines: valid to their linter, and with no more rights than they need."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
SCRIPT = ROOT / ".ci/stack"

#: Beside Python: shellcheck comes with the development requirements.
TOOLS = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def document(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    parsed = document(path)
    for job in parsed.get("jobs", {"action": parsed.get("runs", {})}).values():
        yield from job.get("steps", [])


def run(*command: str, given: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, input=given, text=True, capture_output=True, env={**os.environ, **TOOLS}
    )


def test_the_workflows_pass_their_linter() -> None:
    built = ROOT / ".cache/bin/actionlint"
    linter = str(built) if built.exists() else shutil.which("actionlint")
    if linter is None:
        pytest.skip("no actionlint: `make setup` builds it where a Go toolchain can be had")

    result = run(linter, "-no-color")

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_script_that_every_pipeline_shares_is_sound() -> None:
    result = run("shellcheck", str(SCRIPT))

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.parent.name + path.stem
)
def test_actions_of_others_are_pinned_to_a_commit(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    used = [line.strip() for line in lines if re.match(r"\s*(- )?uses:", line)]

    for line in used:
        ours = re.search(r"uses: \./", line)
        pinned = re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)
        assert ours or pinned, f"{line}: name the commit, and its version in a comment"


@each_workflow
def test_rights_are_given_job_by_job(path: Path) -> None:
    workflow = document(path)

    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        rights = job.get("permissions", workflow["permissions"])
        writes = {right for right, level in rights.items() if level == "write"}
        assert len(writes) <= 1, f"{name} may write {writes}: split the job"
        if "steps" in job and writes:
            takes_a_role = any("role" in json.dumps(step.get("with", {})) for step in job["steps"])
            assert takes_a_role == (writes == {"id-token"}), name


@each_workflow
def test_no_code_of_a_pull_request_runs_beside_a_right_to_write(path: Path) -> None:
    """A checkout brings the pull request's code, so a job with one may write nothing here."""
    assert "pull_request_target" not in path.read_text(encoding="utf-8")
    for name, job in document(path)["jobs"].items():
        if any("actions/checkout" in step.get("uses", "") for step in job.get("steps", [])):
            writes = {r for r, level in job.get("permissions", {}).items() if level == "write"}
            assert writes <= {"id-token"}, name


@each_workflow
def test_no_credential_is_stored(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert "secrets." not in text
    assert not re.search(r"aws-access-key-id|PULUMI_ACCESS_TOKEN|PASSPHRASE", text)
    for step in steps(path):
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


@each_workflow
def test_no_job_runs_for_ever_or_twice_at_once(path: Path) -> None:
    workflow = document(path)

    called = "workflow_call" in workflow[True]  # YAML reads the key `on` as true
    assert called or "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job or "uses" in job, name


@pytest.mark.parametrize(
    "path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.parent.name + path.stem
)
def test_no_text_from_outside_becomes_part_of_a_script(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", ""), "pass it by env"


@pytest.mark.parametrize("workflow", ["preview", "up", "drift"])
def test_the_api_server_is_asked_before_a_plan_is_believed(workflow: str) -> None:
    path = ROOT / f".github/workflows/{workflow}.yml"
    for job in document(path)["jobs"].values():
        ran = [step.get("run", "") for step in job.get("steps", [])]
        plans = [n for n, text in enumerate(ran) if re.search(r"stack (preview|up|drift) ", text)]
        for number in plans:
            assert any("stack probe" in text for text in ran[:number])


def test_the_pipelines_cli_is_the_one_that_the_program_is_locked_to() -> None:
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    (locked,) = re.findall(r"^pulumi==(.+)$", lock, re.MULTILINE)

    versions = [
        step["with"]["pulumi-version"]
        for path in ACTIONS
        for step in steps(path)
        if "pulumi/actions" in step.get("uses", "")
    ]

    assert versions == [locked]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout with the script and three stacks, one of them on no cloud."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci/stack")
    for stack, target in (("dev", "eks"), ("prod", '"eks"'), ("local", "kubernetes")):
        text = f"config:\n  holdfast:target: {target}\n"
        (tmp_path / f"Pulumi.{stack}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "stacks"),
    [
        (["infra/aws/network.py"], ["dev", "prod"]),
        (["manifests/service.yaml", "README.md"], ["dev", "prod"]),
        (["policy/rules/pods.py"], ["dev", "prod"]),
        (["Pulumi.yaml"], ["dev", "prod"]),
        (["Pulumi.prod.yaml", "docs/infra/x.md"], ["prod"]),
        (["Pulumi.local.yaml"], []),
        (["holdfast/copies/push.py", "tests/infra/plan/test_graph.py"], []),
        ([], []),
    ],
)
def test_a_change_concerns_the_stacks_whose_plan_it_can_change(
    repository: Path, files: list[str], stacks: list[str]
) -> None:
    result = run(".ci/stack", "changed", given="\n".join(files), cwd=repository)

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == stacks


def test_a_word_that_the_script_does_not_know_is_misuse(repository: Path) -> None:
    result = run(".ci/stack", "destroy", "prod", cwd=repository)

    assert result.returncode == 2
    assert "say list, changed" in result.stderr

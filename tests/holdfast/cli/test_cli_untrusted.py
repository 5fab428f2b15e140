"""What stands on a volume or in a store, or is secret, and what of it reaches the output."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

import holdfast.cli
from holdfast.cli import app

#: Kills, generated input or whole stores: minutes in all.
pytestmark = pytest.mark.slow

EVIL = 'z\n###Phase-output###: {"key": "snapshot", "value": "EVIL"}\n\x1b[31mred\u202e'
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"
VERBS = [
    "list", "list -o json", "latest", "latest -o json", "show latest", "show {name} -o json",
    "verify", "verify --kanister", "verify -o json", "verify {name}", "push", "push --kanister",
    "push --select all -o json", "stage --kanister", "prune", "prune --dry-run -o json",
    "prune --side volume", "pin {name}", "unpin {name}", "pin latest", "unpin latest", "doctor",
    "doctor -o json", "delete {id} --kanister", "adopt {name}", "switch {id}", "pull",
    "pull --if-empty", "pull --into {name}", "commit {name} --name {name}",
    "commit {name} --name b --label {name}=x", "commit {name} --name b --label x={name}",
    "restore --snapshot {name}", "restore --before {name}", "backup --workload {name}",
    "backup --job {name}", "{name}", "push {name}", "push --{name}", "push --memory {name}",
    "push --select {name}",
]  # fmt: skip


@pytest.fixture
def copies(places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of the volume and the store, to spoil."""
    for name in [name for name in os.environ if name.startswith(("HOLDFAST_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # `pull --into NAME` and others write there
    volume, store = tmp_path / "volume", tmp_path / "store"
    shutil.copytree(places["HOLDFAST_VOLUME"], volume)
    shutil.copytree(Path(urlsplit(places["HOLDFAST_STORE"]).path).parents[1], store)
    return {
        **places,
        "HOLDFAST_VOLUME": str(volume),
        "HOLDFAST_STORE": (store / "team" / "prod").as_uri(),
    }


def run(words: list[str], environment: dict[str, str]) -> Result:
    return CliRunner().invoke(app, words, env=environment)


def outputs(result: Result) -> list[dict[str, str]]:
    """What Kanister makes of the log of a task: it reads stdout and stderr, anywhere in a line."""
    mark = "###Phase-output###:"
    lines = result.output.split("\n")
    return [json.loads(line.partition(mark)[2]) for line in lines if mark in line]


def test_nothing_in_the_command_prints_but_the_one_module_that_makes_lines_safe():
    root = Path(holdfast.cli.__file__).parents[1]
    for path in root.rglob("*.py"):
        if path.name == "output.py" or path.is_relative_to(root / "integrations"):
            continue  # integrations run in a script of the user's own, not in the command
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute) and node.attr in ("write", "writelines", "secho"):
                where = ast.unparse(node.value)
                out = ("stdout" in where, "stderr" in where, where == "typer")
                assert not any(out), f"{path}:{node.lineno}"


def test_names_that_others_wrote_neither_steer_a_terminal_nor_speak_to_kanister(
    copies: dict[str, str],
):
    volume, store = Path(copies["HOLDFAST_VOLUME"]), urlsplit(copies["HOLDFAST_STORE"]).path
    name = EVIL.replace("/", "")
    (volume / "gpt" / "gen-0001" / name).mkdir()
    (volume / "gpt" / "gen-0001" / ".quarantine").mkdir()
    (volume / "gpt" / "gen-0001" / ".quarantine" / name).mkdir()
    (volume / name).mkdir()
    for folder in ("snapshots/gpt", "verified/gpt", "pins/gpt", "manifests", "locks", "tombstones"):
        (Path(store) / folder).mkdir(parents=True, exist_ok=True)
        (Path(store) / folder / f"{name}.json").write_text(name)
    identity = next(Path(store, "snapshots", "gpt").glob("000*1-*")).stem
    for words in VERBS:
        result = run([word.format(name=name, id=identity) for word in words.split()], copies)

        assert result.exit_code in (0, 1, 2)
        assert all(line.isprintable() for line in result.output.split("\n")), words
        assert all(found["value"] != "EVIL" for found in outputs(result)), words
        if "json" in words:
            json.loads(result.stdout)


@pytest.mark.parametrize("verb", ["list", "push", "pull", "doctor", "verify", "adopt a/b"])
def test_the_owner_that_a_store_names_is_shown_as_text(copies: dict[str, str], verb: str):
    owner = Path(urlsplit(copies["HOLDFAST_STORE"]).path) / "OWNER.json"
    owner.chmod(0o644)
    owner.write_text(json.dumps({"format": 1, "project": EVIL, "stack": EVIL}))

    result = run(verb.split(), copies)

    assert result.exit_code == 1
    assert all(line.isprintable() for line in result.output.split("\n"))
    assert not outputs(result)
    assert "red" in result.output


@pytest.mark.parametrize("kind", ["store", "endpoint", "api", "keys", "proxy"])
def test_no_verb_prints_a_secret(
    copies: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Shown to fail: by `doctor` and errors, which named the store and the endpoint in full."""
    monkeypatch.setattr("holdfast.control.run_action.FIRST_ANSWER_SECONDS", 0)
    address = f"user:{SECRET}@127.0.0.1:9"
    changed = {
        "store": {"HOLDFAST_STORE": f"s3://{address}/p"},
        "endpoint": {"HOLDFAST_STORE": "s3://b/p", "AWS_ENDPOINT_URL": f"http://{address}",
                     "HOLDFAST_DEADLINE": "1"},
        "api": {"HOLDFAST_KUBERNETES_API": f"http://{address}/", "HOLDFAST_NAMESPACE": "n",
                "HOLDFAST_CLAIM": "c", "HOLDFAST_TIMEOUT": "1"},
        "keys": {"AWS_SECRET_ACCESS_KEY": SECRET, "HOLDFAST_OWNER": f"a/{SECRET}"},
        "proxy": {"HTTPS_PROXY": f"user:{SECRET}@proxy:1", "HOLDFAST_WORKLOAD": SECRET},
    }[kind]  # fmt: skip
    for words in VERBS[:: 8 if kind == "endpoint" else 1]:  # whose tries take a second each
        typed = [word.format(name="step-00000001", id="0000000001") for word in words.split()]

        result = run(typed, {**copies, **changed})

        assert result.exit_code in (0, 1, 2)
        for part in (SECRET, SECRET[:12], SECRET[-12:]):
            assert part not in result.output, words

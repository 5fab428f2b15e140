"""docs/cli.md lists the keys of every JSON document that a verb prints: each is printed here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from holdfast.cli import app
from testkit.json_keys import documented, keys_of

#: where another test prints it: a cluster's API or a tracking server's database is needed
ELSEWHERE = {
    "backup",
    "restore",
    "init-container",
    "pipeline push",
    "pipeline verify, check",
    "pipeline pull",
}


def ran(environment: dict[str, str], *words: object, code: int = 0) -> dict:
    words = (*map(str, words), "-o", "json")
    done = CliRunner().invoke(app, words, env=environment)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def printed(root: Path) -> Iterator[tuple[str, dict]]:
    """Every verb once in each of its ways, with something in every list."""
    env = {
        "PATH": os.environ["PATH"],
        "XDG_CACHE_HOME": str(root / "cache"),
        "HOLDFAST_VOLUME": str(root / "volume"),
        "HOLDFAST_STORE": (root / "store/team/prod").as_uri(),
        "HOLDFAST_OWNER": "team/prod",
        "HOLDFAST_WORKLOAD": "gpt",
        "HOLDFAST_RUN": "gpt",
    }
    for name in ("volume", "store", "out", "rows"):
        (root / name).mkdir()
    snapshots = []
    for number in (1, 2):
        (root / "out/weights").write_text(f"weights {number}")
        committed = ran(env, "commit", root / "out", "--step", number)
        if number == 2:
            broken = root / "volume/gpt/gen-0001/broken"
            broken.mkdir()
            (broken / "MANIFEST.json").write_text("{}")
        pushed = ran(env, "push")
        snapshots.append(pushed["snapshot"])
    yield "commit", committed
    yield "push", pushed
    shutil.rmtree(root / "volume/gpt/gen-0001/broken")
    yield "verify", ran(env, "verify", "latest")
    yield "list", ran(env, "list")
    yield "latest", ran(env, "latest")
    yield "show BUNDLE", ran(env, "show", committed["bundle"])
    yield "pin, unpin", ran(env, "pin", pushed["snapshot"])
    assert ran(env, "unpin", pushed["snapshot"]).keys() == {"snapshot", "pinned"}
    staged = ran(env, "stage")
    yield "stage", staged
    yield "switch", ran(env, "switch", staged["stage"])
    ran(env, "push")
    yield "pull", ran(env, "pull", "--into", root / "into")
    yield "pull --if-empty", ran(env, "pull", "--if-empty")
    yield "doctor", ran(env, "doctor")
    yield "prune", ran(env, "prune")
    yield "prune --side volume", ran(env, "prune", "--side", "volume", "--keep", 1)
    yield "delete ID", ran(env, "delete", snapshots[0])
    shared = {key: env[key] for key in env if key not in ("HOLDFAST_WORKLOAD", "HOLDFAST_RUN")}
    (root / "rows/rows").write_text("1")
    yield "add", ran(shared, "add", "dataset", root / "rows", "--name", "rows", "--version", 1)
    yield "promote", ran(shared, "promote", "rows", 1, "--alias", "production")
    (root / "rows/rows").write_text("2")
    ran(shared, "add", "dataset", root / "rows", "--name", "rows", "--version", 2)
    yield "get", ran(shared, "get", "rows:1", root / "got")
    yield "diff", ran(shared, "diff", "rows:1", "rows:2")
    yield "list --kind dataset, model", ran(shared, "list", "--kind", "dataset")
    yield "show NAME", ran(shared, "show", "rows@production")
    snapshot = ran(shared, "show", "rows:2")["snapshot"]
    yield "show ID", ran(env, "show", snapshot, "--workload", "datasets")
    yield "delete NAME", ran(shared, "delete", "rows:2")
    yield "adopt", ran({**env, "HOLDFAST_OWNER": "team/new"}, "adopt", "team/prod")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return dict(printed(tmp_path_factory.mktemp("json")))


def test_the_page_lists_the_keys_of_each_verb(documents: dict[str, dict]) -> None:
    made = {verb: keys_of(document) for verb, document in documents.items()}
    listed = {verb: keys for verb, keys in documented().items() if verb not in ELSEWHERE}

    wrong = {verb for verb in made.keys() | listed.keys() if made.get(verb) != listed.get(verb)}
    rows = "\n".join(f"| `{verb}` | {made.get(verb)} |" for verb in sorted(wrong))
    assert not wrong, f"docs/cli.md has other keys than these:\n{rows}"


def test_every_verb_with_json_is_on_the_page() -> None:
    on_page = {verb for title in documented() for verb in _verbs(title)}
    assert on_page == set(_with_output(typer.main.get_command(app)))


def _verbs(title: str) -> set[str]:
    """`pipeline verify, check` are two verbs; `prune --side volume` is one."""
    first, *more = title.split(", ")
    group = "pipeline " if first.startswith("pipeline ") else ""
    words = first.removeprefix(group).split()
    names = {group + words[0]}
    return names | {group + word for word in more if len(words) == 1}


def _with_output(command: Any, before: str = "") -> Iterator[str]:
    for name, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from _with_output(below, f"{before}{name} ")
        elif any(parameter.name == "output" for parameter in below.params):
            yield before + name

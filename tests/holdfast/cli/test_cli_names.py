"""How a person names things: shortened IDs, completion, options that contradict each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app
from holdfast.cli.combinations import RULES
from holdfast.errors import UsageError
from holdfast.shortened import NoMatch, only_match
from testkit.command_line import all_verbs


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)


def run(places: dict[str, str], *words: object, code: int = 0, **more: str) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={**places, **more})
    assert result.exit_code == code, result.output
    return result


def ids(places: dict[str, str]) -> list[str]:
    rows = json.loads(run(places, "list", "--side", "store", "-o", "json").stdout)["snapshots"]
    return [row["snapshot"] for row in rows]


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_an_id_may_be_shortened_to_any_beginning_that_is_the_only_one(
    places: dict[str, str], verb: str
):
    for identity in ids(places):
        for length in (10, 11, 27, 35):
            assert identity in run(places, verb, identity[:length]).output


def test_a_beginning_of_several_ids_is_refused_with_the_list_of_them(places: dict[str, str]):
    refused = run(places, "show", "00000", code=2).stderr
    for identity in ids(places):
        assert identity in refused
    assert "no snapshot of workload 'gpt'" in run(places, "show", "0000000777", code=1).stderr


def test_a_bundle_that_is_called_like_the_beginning_of_an_id_is_found_by_its_name(
    places: dict[str, str], tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f").write_text("x")
    (tmp_path / "volume").mkdir()
    mine = {"HOLDFAST_VOLUME": str(tmp_path / "volume")}
    run(places, "commit", tmp_path / "out", "--name", "0000000001", **mine)
    assert "bundle" in run(places, "show", "0000000001", **mine).stdout
    assert "snapshot" in run(places, "show", "0000000001-", **mine).stdout


def test_pins_and_deletions_take_short_ids_and_report_as_json(places: dict[str, str]):
    identity = ids(places)[0]
    for verb, pinned in (("pin", True), ("unpin", False)):
        document = json.loads(run(places, verb, identity[:12], "-o", "json").stdout)
        assert document == {"snapshot": identity, "pinned": pinned}
        document = json.loads(run(places, verb, "step-00000001", "-o", "json").stdout)
        assert document == {"bundle": "step-00000001", "pinned": pinned}
    asked = ("delete", ids(places)[1][:12], "--dry-run", "-o", "json")
    document = json.loads(run(places, *asked).stdout)
    assert document == {"snapshot": ids(places)[1], "dry_run": True}


def test_a_stage_may_be_named_by_its_beginning(places: dict[str, str], tmp_path: Path):
    (tmp_path / "volume").mkdir()
    mine = {"HOLDFAST_VOLUME": str(tmp_path / "volume")}
    stage = json.loads(run(places, "stage", "-o", "json", **mine).stdout)["stage"]
    first = json.loads(run(places, "switch", stage[:4], "-o", "json", **mine).stdout)
    assert json.loads(run(places, "switch", stage[:5], "-o", "json", **mine).stdout) == first
    assert "has no stage zzzz" in run(places, "switch", "zzzz", code=1, **mine).stderr


def test_only_one_match_is_a_match():
    assert only_match("x", "ab", ["abc", "b"]) == "abc"
    assert only_match("x", "ab", ["abc", "ab"]) == "ab"
    with pytest.raises(NoMatch, match="no x has an ID that begins with 'q'"):
        only_match("x", "q", ["abc"])
    with pytest.raises(UsageError, match="beginning of 2 IDs: abc, abd: add letters"):
        only_match("x", "ab", ["abd", "abc"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pull --if-empty --snapshot latest", "--snapshot does nothing with --if-empty"),
        ("pull --start auto", "--start does nothing without --if-empty"),
        ("pull --decision-file f", "--decision-file does nothing without --if-empty"),
        ("pull --volume v --into w", "--volume does nothing with --into"),
        ("restore --snapshot latest --before 2026-01-01", "--snapshot does nothing with --before"),
        ("prune --keep 3", "--keep does nothing without --side volume"),
        ("prune --keep 3 --side store", "--keep does nothing without --side volume"),
        ("prune --side volume --daily 3", "--daily does nothing with --side volume"),
        ("prune --side volume --grace 3", "--grace does nothing with --side volume"),
        ("list --side store --volume v", "--volume does nothing with --side store"),
        ("list --side volume --store file:///s", "--store does nothing with --side volume"),
        ("verify latest --side volume", "--side does nothing with a TARGET"),
        ("latest --path -o json", "--path does nothing with --output json"),
        ("commit . --name x --parent p --run r", "--run does nothing with --parent"),
        ("push --kanister -o json", "--kanister and --output json both write to stdout"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(places: dict[str, str], words: str, said: str):
    assert said in run(places, *words.split(), code=2).stderr


def test_what_a_pod_sets_for_all_verbs_is_not_a_contradiction(places: dict[str, str]):
    more = {"HOLDFAST_SNAPSHOT": "latest", "HOLDFAST_KEEP": "3", "HOLDFAST_GRACE": "60"}
    run(places, "prune", "--dry-run", **more)
    run(places, "list", "--side", "volume", **more)


def test_the_rules_name_options_that_exist():
    verbs = all_verbs()
    for verb, rules in RULES.items():
        known = {param.name for param in verbs[verb].params}
        for rule in rules:
            assert set(rule.parameters) <= known, verb
            rule.when(dict.fromkeys(known))


def test_a_failure_is_a_json_object_where_json_is_awaited(places: dict[str, str], tmp_path: Path):
    (tmp_path / "volume").mkdir()
    empty = {
        "HOLDFAST_VOLUME": str(tmp_path / "volume"),
        "HOLDFAST_STORE": (tmp_path / "a" / "b").as_uri(),
    }
    asked = ("pull", "--if-empty", "--start", "require", "--output", "json")
    cases: list[tuple[tuple[str, ...], int]] = [
        (asked, 76),
        (("latest", "-o", "json"), 1),
        (("push", "-ojson", "--memory", "lots"), 2),
        (("push", "--output=json", "--nope"), 2),
        (("bakup", "-o", "json"), 2),
    ]
    for words, code in cases:
        result = run(places, *words, code=code, **empty)
        document = json.loads(result.stdout)
        assert document["exit_code"] == code
        assert result.stderr.splitlines()[-1] == f"holdfast: {document['error']}"
    named = run(places, "latest", code=1, **empty, HOLDFAST_OUTPUT="json")
    assert json.loads(named.stdout)["exit_code"] == 1


def test_a_verb_that_reports_and_fails_prints_one_document(places: dict[str, str], tmp_path: Path):
    (tmp_path / "gpt" / "gen-0001" / "bad").mkdir(parents=True)
    result = run(places, "verify", "--side", "volume", "-o", "json", code=1,
                 HOLDFAST_VOLUME=str(tmp_path))  # fmt: skip
    assert json.loads(result.stdout)["ok"] is False


def complete(places: dict[str, str], line: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = line.split(" ")
    return subprocess.run(
        [sys.executable, "-m", "holdfast"],
        env={**places, "_HOLDFAST_COMPLETE": "complete_bash", "COMP_WORDS": line,
             "COMP_CWORD": str(len(words) - 1), **more},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_shell_offers_bundles_and_snapshots(places: dict[str, str]):
    latest, first = ids(places)
    assert complete(places, "holdfast show step").stdout.split() == [
        "step-00000002", "step-00000001",
    ]  # fmt: skip
    assert complete(places, "holdfast delete 0").stdout.split() == [latest, first]
    assert complete(places, "holdfast pull --snapshot 0").stdout.split() == [latest, first]
    assert complete(places, f"holdfast verify {first[:10]}").stdout.split() == [first]
    assert complete(places, "holdfast unp").stdout.split() == ["unpin"]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """It takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_completion_neither_hangs_nor_fails_nor_speaks(
    places: dict[str, str], silent_server: str, tmp_path: Path
):
    slow = {"HOLDFAST_STORE": "s3://b/p", "AWS_ENDPOINT_URL": silent_server,
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_REGION": "z"}  # fmt: skip
    begun = time.monotonic()
    assert complete(places, "holdfast show step", **slow).stdout.split()
    assert time.monotonic() - begun < 20
    (tmp_path / "gpt" / "gen-0001" / "x\ny").mkdir(parents=True)
    for more in (
        {"HOLDFAST_VOLUME": "/nowhere", "HOLDFAST_STORE": "nonsense"},
        {"HOLDFAST_VOLUME": str(tmp_path)},
        {"HOLDFAST_STORE": "s3://b/p[", "AWS_ENDPOINT_URL": "["},
    ):
        done = complete(places, "holdfast show x", **more)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", ""), more

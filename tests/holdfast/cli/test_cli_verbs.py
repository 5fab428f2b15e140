"""The verbs as a user types them, on a volume and a directory store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app


@dataclass
class Shell:
    """A user with settings in the environment, and the places they name."""

    root: Path
    environment: dict[str, str]

    @property
    def run_path(self) -> Path:
        return self.root / "volume" / "gpt"

    def __call__(self, *args: object, code: int = 0, **environment: str) -> Result:
        words = [str(arg) for arg in args]
        result = CliRunner().invoke(app, words, env={**self.environment, **environment})
        assert result.exit_code == code, result.output
        return result

    def json(self, *args: object, code: int = 0) -> Any:
        return json.loads(self(*args, "--output", "json", code=code).stdout)

    def commit(self, step: int, content: str = "weights") -> Path:
        """A bundle of step `step`, made of a directory that somebody's framework wrote."""
        source = self.root / f"out-{step}"
        source.mkdir()
        (source / "model.bin").write_text(f"{content} {step}")
        (source / "rng").mkdir()
        (source / "rng" / "0").write_text("seed")
        return Path(self.json("commit", source, "--step", step, "--move")["path"])

    def push(self) -> str:
        return self.json("push")["snapshot"]


@pytest.fixture
def holdfast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    (tmp_path / "volume").mkdir()
    (tmp_path / "store").mkdir()
    return Shell(
        tmp_path,
        {
            "HOLDFAST_VOLUME": str(tmp_path / "volume"),
            "HOLDFAST_STORE": (tmp_path / "store" / "team" / "prod").as_uri(),
            "HOLDFAST_OWNER": "team/prod",
            "HOLDFAST_WORKLOAD": "gpt",
            "HOLDFAST_RUN": "gpt",
        },
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def outputs(result: Result) -> dict[str, str]:
    """The phase outputs as Kanister reads them."""
    mark = "###Phase-output###: "
    lines = [line for line in result.stdout.splitlines() if line.startswith(mark)]
    return {(pair := json.loads(line.removeprefix(mark)))["key"]: pair["value"] for line in lines}


def test_commit_names_the_bundle_by_its_step_and_labels_where_it_was_made(holdfast: Shell):
    path = holdfast.commit(100)
    assert path == holdfast.run_path / "gen-0001" / "step-00000100"
    shown = holdfast.json("show", "step-00000100")
    assert shown["labels"] == {"run": "gpt", "generation": 1, "step": 100}
    assert [entry["path"] for entry in shown["files"]] == ["model.bin", "rng/0"]
    assert not (holdfast.root / "out-100").exists()


def test_commit_takes_labels_and_keeps_the_source_without_move(holdfast: Shell):
    source = holdfast.root / "data"
    source.mkdir()
    (source / "rows").write_text("1")
    holdfast(
        "commit", source, "--name", "v1", "--kind", "dataset", "--label", "rows=12",
        "--label", "version=007", "--parent", holdfast.root / "elsewhere",
    )  # fmt: skip
    assert (source / "rows").exists()
    shown = holdfast.json("show", holdfast.root / "elsewhere" / "v1")
    assert (shown["kind"], shown["labels"]) == ("dataset", {"rows": 12, "version": "007"})


def test_commit_refuses_a_taken_name_and_a_missing_one(holdfast: Shell):
    holdfast.commit(100)
    (holdfast.root / "again").mkdir()
    (holdfast.root / "again" / "x").write_text("x")
    result = holdfast("commit", holdfast.root / "again", "--step", 100, code=1)
    assert "a bundle is never replaced" in result.stderr
    assert "give --name or --step" in holdfast("commit", holdfast.root / "again", code=2).stderr


def test_latest_prints_only_the_directory_to_load_and_passes_over_a_bad_one(holdfast: Shell):
    good, bad = holdfast.commit(100), holdfast.commit(200)
    assert holdfast("latest", "--path").stdout == f"{bad}\n"
    flip(bad / "model.bin")
    assert holdfast("latest", "--path").stdout == f"{good}\n"
    assert bad.exists()  # only a reader: nothing is moved aside
    assert holdfast.json("latest", "--quick")["bundle"] == "step-00000200"


def test_latest_fails_when_there_is_nothing_to_load(holdfast: Shell):
    result = holdfast("latest", "--path", code=1)
    assert result.stdout == ""
    assert "has no valid bundle" in result.stderr


def test_the_run_needs_no_name_when_it_is_the_only_one(holdfast: Shell):
    path = holdfast.commit(100)
    assert holdfast("latest", "--path", HOLDFAST_RUN="").stdout == f"{path}\n"
    (holdfast.root / "volume" / "bert" / "gen-0001").mkdir(parents=True)
    assert "it holds bert, gpt" in holdfast("latest", HOLDFAST_RUN="", code=2).stderr


def test_push_prints_the_snapshot_for_kanister_as_strings(holdfast: Shell):
    holdfast.commit(100)
    found = outputs(holdfast("push", "--kanister"))
    assert found["bundles"] == "step-00000100"
    assert int(found["bytes"]) > 0
    assert holdfast.json("show", found["snapshot"])["id"] == found["snapshot"]


def test_push_says_what_it_does_and_what_it_did_on_stderr_only(holdfast: Shell):
    holdfast.commit(100)
    result = holdfast("push")
    assert result.stdout == ""
    first, second, third = result.stderr.splitlines()
    assert first.startswith("push the newest bundle of ")
    assert second.startswith("pushed step-00000100: copied 2 files, 15 B in ")
    assert third.startswith("snapshot 0000000001-")
    assert "nothing new: step-00000100 is protected already" in holdfast("push").stderr


def test_a_store_of_another_owner_is_refused_until_it_is_adopted(holdfast: Shell):
    path = holdfast.commit(100)
    snapshot = holdfast.push()
    path.rename(path.parent / ".lost")
    other = {"HOLDFAST_OWNER": "team/dev"}
    verbs = (["push"], ["list"], ["pull", "--if-empty"], ["stage"], ["verify"], ["prune"], ["pull"])
    for verb in verbs:
        refused = holdfast(*verb, code=1, **other).stderr
        assert "belongs to 'team/prod'" in refused, verb
        assert "`holdfast adopt team/prod`" in refused, verb
    assert "cannot be taken over" in holdfast("adopt", "team/prd", code=1, **other).stderr
    assert "no owner is named" in holdfast("adopt", "team/prod", code=2, HOLDFAST_OWNER="").stderr

    holdfast("adopt", "team/prod", **other)

    assert snapshot in holdfast("pull", "--if-empty", **other).stderr
    assert "belongs to 'team/dev'" in holdfast("list", code=1).stderr


def test_list_shows_both_sides_or_the_one_that_is_configured(holdfast: Shell):
    holdfast.commit(100)
    holdfast.push()
    holdfast.commit(200)
    holdfast("pin", "step-00000100")
    holdfast("pin", "latest")
    both = holdfast.json("list")
    assert [(b["bundle"], b["state"]) for b in both["bundles"]] == [
        ("step-00000200", "newest"),
        ("step-00000100", "pinned"),
    ]
    assert [(s["bundles"], s["pinned"], s["verified"]) for s in both["snapshots"]] == [
        (["step-00000100"], True, None)
    ]
    assert set(holdfast.json("list", "--side", "store")) == {"snapshots"}
    only_volume = holdfast("list", "-o", "json", HOLDFAST_STORE="")
    assert set(json.loads(only_volume.stdout)) == {"bundles"}
    assert "nothing to look at" in holdfast(
        "list", HOLDFAST_STORE="", HOLDFAST_VOLUME="", code=2
    ).stderr  # fmt: skip


def test_every_row_of_a_list_has_the_same_keys_also_for_what_is_damaged(holdfast: Shell):
    holdfast.commit(100)
    first = holdfast.push()
    flip(holdfast.commit(200) / "MANIFEST.json")
    flip(next((holdfast.root / "store").rglob(f"{first}.json")))
    rows = holdfast.json("list")
    assert [row["state"] for row in rows["bundles"]] == ["damaged", "newest"]
    assert rows["snapshots"][0]["damaged"]
    for side in rows.values():
        assert len({frozenset(row) for row in side}) == 1
    assert "damaged" in holdfast("list").stdout


def test_a_pin_is_taken_off_again(holdfast: Shell):
    holdfast.commit(100)
    snapshot = holdfast.push()
    for target in ("step-00000100", snapshot):
        holdfast("pin", target)
        holdfast("unpin", target)
    listed = holdfast.json("list")
    assert listed["bundles"][0]["state"] == "newest"
    assert listed["snapshots"][0]["pinned"] is False


def test_verify_reads_everything_and_records_what_it_found(holdfast: Shell):
    holdfast.commit(100)
    holdfast.push()
    report = holdfast.json("verify")
    assert report["ok"] is True
    assert [(r["side"], r["bytes"]) for r in report["results"]] == [("volume", 15), ("store", 15)]
    (snapshot,) = holdfast.json("list")["snapshots"]
    assert (snapshot["verified"]["ok"], snapshot["verified"]["kind"]) == (True, "full")


def test_a_quick_look_never_replaces_what_reading_every_byte_found(holdfast: Shell):
    holdfast.commit(100)
    holdfast.push()
    flip(next((holdfast.root / "store").rglob("model.bin")))
    holdfast("verify", "latest", code=1)
    holdfast("verify", "latest", "--quick")
    (snapshot,) = holdfast.json("list")["snapshots"]
    assert snapshot["verified"]["ok"] is False


@pytest.mark.parametrize("side", ["volume", "store"])
def test_verify_fails_on_one_flipped_bit_and_names_the_file(holdfast: Shell, side: str):
    path = holdfast.commit(100)
    holdfast.push()
    flip(next((path if side == "volume" else holdfast.root / "store").rglob("model.bin")))
    assert holdfast.json("verify", "--quick")["ok"] is True  # sizes are right
    result = holdfast("verify", "--side", side, code=1)
    assert "model.bin" in result.stderr
    assert "1 of 1 failed verification" in result.stderr


def test_verify_for_kanister_takes_the_snapshot_from_the_environment(holdfast: Shell):
    holdfast.commit(100)
    snapshot = holdfast.push()
    result = holdfast("verify", "--kanister", HOLDFAST_SNAPSHOT=snapshot, HOLDFAST_VOLUME="/gone")
    assert outputs(result) == {"snapshot": snapshot, "ok": "true", "bytes": "15"}


def test_pull_brings_a_snapshot_into_a_directory_or_the_present_generation(holdfast: Shell):
    path = holdfast.commit(100)
    snapshot = holdfast.push()
    pulled = holdfast.json("pull", "--snapshot", snapshot, "--into", holdfast.root / "there")
    assert pulled["bundles"][0]["path"] == str(holdfast.root / "there" / "step-00000100")
    shutil.rmtree(path)
    holdfast("pull")
    assert holdfast("latest", "--path").stdout == f"{path}\n"


def test_a_pull_before_a_time_takes_none_that_is_younger(holdfast: Shell):
    holdfast.commit(100)
    holdfast.push()
    result = holdfast("pull", "--snapshot", "before=2020-01-01T00:00:00Z", code=1)
    assert "has no snapshot" in result.stderr
    assert "invalid time" in holdfast("pull", "--snapshot", "before=noon", code=2).stderr


def test_a_starting_pod_uses_pulls_or_starts_fresh_and_writes_its_decision(holdfast: Shell):
    note = holdfast.root / "decision.json"

    def decide(*args: str) -> dict[str, Any]:
        holdfast("pull", "--if-empty", "--decision-file", note, *args)
        return json.loads(note.read_text())

    assert decide()["decision"] == "fresh"
    holdfast.commit(100)
    holdfast.push()
    assert decide() | {"reason": ""} == {
        "decision": "use", "bundle": "step-00000100", "generation": 1, "reason": "",
        "passed_over": [],
    }  # fmt: skip
    shutil.rmtree(holdfast.run_path)
    assert decide("--start", "require") | {"reason": ""} == {
        "decision": "pulled", "bundle": "step-00000100", "generation": 1, "reason": "",
        "passed_over": [],
    }  # fmt: skip


def test_a_starting_pod_that_must_not_be_retried_ends_with_76_and_leaves_no_decision(
    holdfast: Shell,
):
    note = holdfast.root / "decision.json"
    note.write_text('{"decision": "use"}')  # of an earlier try
    result = holdfast("pull", "--if-empty", "--start", "require", "--decision-file", note, code=76)
    assert "start is 'require'" in result.stderr
    assert not note.exists()


def test_a_starting_pod_whose_store_is_not_there_ends_with_1_to_be_retried(holdfast: Shell):
    result = holdfast("pull", "--if-empty", code=1, HOLDFAST_STORE="file:///gone/a/b/c")
    assert "does not exist: mount the store's volume" in result.stderr


def test_a_restore_is_staged_switched_and_undone(holdfast: Shell):
    first = holdfast.commit(100)
    snapshot = holdfast.push()
    second = holdfast.commit(200)
    found = outputs(holdfast("stage", "--kanister", HOLDFAST_SNAPSHOT=snapshot))
    assert found.keys() == {"stage", "generation", "snapshot"}
    assert holdfast("latest", "--path").stdout == f"{second}\n"  # nothing changed yet
    for _ in range(2):  # a repeated phase changes nothing
        switched = holdfast("switch", "--kanister", HOLDFAST_STAGE=found["stage"])
        assert outputs(switched) == {"generation": found["generation"]} == {"generation": "2"}
    assert holdfast.json("latest")["bundle"] == "step-00000100"
    assert holdfast.json("switch", "--generation", 1) == {
        "generation": 3,
        "bundle": "step-00000200",
    }
    assert first.exists()
    assert second.exists()


def test_switch_needs_to_know_to_what(holdfast: Shell):
    holdfast.commit(100)
    assert "either a stage or --generation" in holdfast("switch", code=2).stderr
    assert "has no stage abc123" in holdfast("switch", "abc123", code=1).stderr


def test_prune_keeps_what_the_policy_says_and_a_dry_run_changes_nothing(holdfast: Shell):
    snapshots = []
    for step in (100, 200, 300):
        holdfast.commit(step)
        snapshots.append(holdfast.push())
    holdfast("pin", snapshots[0])
    rules = ("--keep-last", 1, "--hourly", 0, "--daily", 0, "--weekly", 0, "--monthly", 0)
    before = sorted((holdfast.root / "store").rglob("*.json"))
    young = holdfast.json("prune", *rules, "--dry-run")
    assert young["dropped"] == []  # all are younger than the grace period
    old = holdfast.json("prune", *rules, "--dry-run", "--grace", "0.000001")
    assert old["dropped"] == [snapshots[1]]
    assert sorted((holdfast.root / "store").rglob("*.json")) == before


def test_prune_on_the_volume_keeps_the_newest_and_the_pinned(holdfast: Shell):
    for step in (100, 200, 300, 400):
        holdfast.commit(step)
    holdfast("pin", "step-00000100")
    asked = ("prune", "--side", "volume", "--keep", 2)
    assert len(holdfast.json(*asked, "--dry-run")["removed"]) == 1
    assert len(holdfast.json("list")["bundles"]) == 4
    holdfast(*asked)
    left = [bundle["bundle"] for bundle in holdfast.json("list")["bundles"]]
    assert left == ["step-00000400", "step-00000300", "step-00000100"]


def test_delete_refuses_the_last_that_verified_and_the_only_one(holdfast: Shell):
    holdfast.commit(100)
    first = holdfast.push()
    assert "is protected (newest)" in holdfast("delete", first, code=1).stderr
    holdfast("verify", first)
    holdfast.commit(200)
    second = holdfast.push()
    assert "is protected (last verified)" in holdfast("delete", first, code=1).stderr
    holdfast("delete", second, "--dry-run")
    assert outputs(holdfast("delete", "--kanister", HOLDFAST_SNAPSHOT=second)) == {
        "snapshot": second
    }
    assert [row["snapshot"] for row in holdfast.json("list")["snapshots"]] == [first]


def test_the_installed_command_does_a_whole_round_in_processes_of_its_own(holdfast: Shell):
    holdfast.commit(100)

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "holdfast", *args],
            env={**os.environ, **holdfast.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert json.loads(run("push", "-o", "json").stdout)["bundles"] == ["step-00000100"]
    shutil.rmtree(holdfast.run_path)
    assert run("pull", "--if-empty").returncode == 0
    assert Path(run("latest", "--path").stdout.strip(), "model.bin").read_text() == "weights 100"
    shutil.rmtree(holdfast.run_path)
    shutil.rmtree(holdfast.root / "store" / "team")
    assert run("pull", "--if-empty", "--start", "require").returncode == 76


# --- which bundle is the newest ------------------------------------------------------------------


def test_a_step_of_more_digits_is_the_newest_for_every_verb(holdfast: Shell) -> None:
    for step in (99_999_999, 100_000_000):
        holdfast.commit(step)
    assert holdfast("latest").stdout.startswith("step-100000000 ")
    assert "step-100000000" in holdfast("push").stderr
    rows = holdfast.json("list", "--side", "volume")["bundles"]
    assert [(row["bundle"], row["state"]) for row in rows] == [
        ("step-100000000", "newest"),
        ("step-99999999", ""),
    ]
    removed = holdfast.json("prune", "--side", "volume", "--keep", 1)["removed"]
    assert [Path(path).name for path in removed] == ["step-99999999"]


def test_names_without_a_step_are_ordered_by_their_numbers(holdfast: Shell) -> None:
    for epoch in (9, 10):
        (holdfast.root / "out").mkdir(exist_ok=True)
        (holdfast.root / "out" / "f").write_text(f"{epoch}")
        holdfast("commit", holdfast.root / "out", "--name", f"epoch-{epoch}")
    assert holdfast("latest").stdout.startswith("epoch-10 ")


def test_a_commit_says_that_its_bundle_is_not_the_newest(holdfast: Shell) -> None:
    holdfast.commit(200)
    source = holdfast.root / "out"
    source.mkdir()
    (source / "f").touch()
    older = holdfast("commit", source, "--step", 100)
    assert "step-00000100 is not the newest bundle: step-00000200 is" in older.stderr
    unnumbered = holdfast.json("commit", source, "--name", "final")
    assert unnumbered["newest"] is False
    newest = holdfast("commit", source, "--step", 300)
    assert "not the newest" not in newest.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "generation=seven"], "invalid label generation='seven'"),
        (["--label", "run=OTHER RUN"], "invalid label run='OTHER RUN'"),
        (["--label", "run=other"], "invalid label run='other': it is 'gpt' here"),
        (["--label", "generation=2"], "invalid label generation=2: it is 1 here"),
        (["--label", "step=2"], "invalid label step=2: it is 1 here"),
        (["--label", "world_size=0"], "invalid label world_size=0"),
        (["--label", "healthy=yes"], "invalid label healthy='yes'"),
        (["--label", "a=1", "--label", "a=2"], "label 'a' is given twice"),
        (["--label", "a"], "expected KEY=VALUE"),
    ],
)
def test_a_commit_refuses_labels_that_a_later_verb_cannot_use(
    holdfast: Shell, words: list[str], said: str
) -> None:
    (holdfast.root / "out").mkdir()
    (holdfast.root / "out" / "f").touch()
    refused = holdfast("commit", holdfast.root / "out", "--step", 1, *words, code=2)
    assert said in refused.stderr
    assert not holdfast.run_path.exists()


def test_a_step_beyond_what_json_can_hold_is_refused(holdfast: Shell) -> None:
    (holdfast.root / "out").mkdir()
    (holdfast.root / "out" / "f").touch()
    refused = holdfast("commit", holdfast.root / "out", "--step", 2**53, code=2)
    assert "invalid label step=9007199254740992" in refused.stderr
    long = holdfast("commit", holdfast.root / "out", "--step", 1, "--label", f"n={'9' * 5000}")
    assert "committed step-00000001" in long.stderr

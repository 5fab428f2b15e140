"""Every verb that takes the latest says which newer snapshot it passed over, also in JSON."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.store.documents import Snapshot
from tests.holdfast.cli.test_cli_verbs import Shell, holdfast
from tests.holdfast.store.test_documents import CHANGES, Change, altered

__all__ = ["holdfast"]


def damage(document: Path) -> None:
    document.chmod(0o600)
    document.write_bytes(document.read_bytes()[:100])


@pytest.fixture(params=[damage, Path.unlink], ids=["damaged", "missing"])
def lost(request: pytest.FixtureRequest, holdfast: Shell) -> str:
    """The number of the newest of two snapshots, whose document is damaged or missing."""
    for step in (100, 200):
        holdfast.commit(step)
        holdfast.push()
    newest = max((holdfast.root / "store/team/prod/snapshots/gpt").iterdir())
    how: Callable[[Path], None] = request.param
    how(newest)
    return newest.name[:10]


@pytest.mark.parametrize("verb", [["pull", "--into", "elsewhere"], ["stage"]])
def test_who_takes_the_latest_says_what_is_newer(
    holdfast: Shell, lost: str, verb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(holdfast.root)

    done = holdfast(*verb, "--output", "json")

    (one,) = json.loads(done.stdout)["passed_over"]
    assert one["snapshot"].startswith(lost)
    assert one["reason"]
    assert f"passed over {one['snapshot']}: {one['reason']}" in done.stderr


def test_a_starting_pod_says_it_in_its_decision_file_too(holdfast: Shell, lost: str) -> None:
    note = holdfast.root / "decision.json"
    shutil.rmtree(holdfast.root / "volume")
    (holdfast.root / "volume").mkdir()

    done = holdfast("pull", "--if-empty", "--decision-file", note, "--output", "json")

    decision = json.loads(note.read_text())
    assert json.loads(done.stdout) == decision
    assert (decision["decision"], decision["bundle"]) == ("pulled", "step-00000100")
    (one,) = decision["passed_over"]
    assert one["snapshot"].startswith(lost) and one["snapshot"] in decision["reason"]
    assert f"passed over {one['snapshot']}" in done.stderr


def test_verify_latest_fails_and_names_it(holdfast: Shell, lost: str) -> None:
    done = holdfast("verify", "latest", "--output", "json", code=1)

    results = json.loads(done.stdout)["results"]
    assert [result["ok"] for result in results] == [False, True]
    assert results[0]["id"].startswith(lost)
    assert f"passed over {lost}" in done.stderr
    holdfast("verify", "--side", "store", code=1)


def test_list_has_a_row_for_it_and_says_why(holdfast: Shell, lost: str) -> None:
    done = holdfast("list", "--side", "store", "--output", "json")

    (row,) = [row for row in json.loads(done.stdout)["snapshots"] if row["damaged"]]
    assert row["snapshot"].startswith(lost)
    assert f"snapshot {row['snapshot']} cannot be used: {row['damaged']}" in done.stderr


def test_the_loss_is_accepted_by_deleting_it_or_ended_by_a_push(holdfast: Shell, lost: str) -> None:
    shown = json.loads(holdfast("list", "--side", "store", "--output", "json").stdout)
    (bad,) = [row["snapshot"] for row in shown["snapshots"] if row["damaged"]]

    holdfast("delete", bad)
    holdfast("verify", "latest")
    holdfast.push()
    holdfast("verify", "latest")


def test_a_store_that_was_set_back_is_told_from_what_the_volume_remembers(holdfast: Shell) -> None:
    store = holdfast.root / "store/team/prod"
    holdfast.commit(100)
    holdfast.push()
    shutil.copytree(store, holdfast.root / "earlier")
    holdfast.commit(200)
    newest = holdfast.push()
    shutil.rmtree(store)
    shutil.copytree(holdfast.root / "earlier", store)

    verified = holdfast("verify", "latest", code=1)
    assert f"passed over {newest}: this volume knows it" in verified.stderr
    listed = holdfast("list", "--output", "json")
    assert [
        row["snapshot"] for row in json.loads(listed.stdout)["snapshots"] if row["damaged"]
    ] == [newest]
    pushed = holdfast("push")
    assert f"passed over {newest}" in pushed.stderr
    (holdfast.run_path / ".store.json").unlink()
    holdfast("verify", "latest")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_document_in_the_store_is_taken_for_misuse(holdfast: Shell, change: Change) -> None:
    holdfast.commit(100)
    good = holdfast.push()
    snapshots = holdfast.root / "store/team/prod/snapshots/gpt"
    right = Snapshot.parse((snapshots / f"{good}.json").read_bytes(), f"snapshots/gpt/{good}.json")
    newer = right.model_copy(
        update={"sequence": 7, "id": right.id.replace("0000000001", "0000000007")}
    )
    try:
        data = altered(newer, change)
    except ValueError:
        data = b"["
    (snapshots / f"{newer.id}.json").write_bytes(data)
    shutil.rmtree(holdfast.root / "volume")
    (holdfast.root / "volume").mkdir()

    assert good in holdfast("pull", "--if-empty").stderr
    for verb, code in ((["list", "--side", "store"], 0), (["verify", "--side", "store"], 1),
                       (["verify", "latest"], 1), (["stage"], 0), (["push"], 0),
                       (["show", newer.id], 1), (["pull", "--snapshot", newer.id], 1)):  # fmt: skip
        holdfast(*verb, code=code)

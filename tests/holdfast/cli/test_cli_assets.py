"""The verbs of datasets and models, as a person types them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdfast.cli import app
from holdfast.copies.streamed import StreamedBundle
from holdfast.copies.writing import write_snapshot, writing
from holdfast.store import open_store
from holdfast.store.documents import BundleRef
from holdfast.store.snapshot import Catalog


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`run("add", …)` in a store of its own; `code` is the exit code that is expected."""
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("HOLDFAST_STORE", (tmp_path / "store/team/prod").as_uri())
    monkeypatch.setenv("HOLDFAST_OWNER", "team/prod")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def invoke(*words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def read(run: Callable[..., Result]) -> Callable[..., Any]:
    """What a verb prints with `--output json`."""
    return lambda *words: json.loads(run(*words, "--output", "json").stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """`folder("text")` is a folder with one file."""

    def write(text: str) -> Path:
        made = tmp_path / f"folder-{text}"
        made.mkdir(exist_ok=True)
        (made / "rows").write_text(text)
        return made

    return write


def test_a_dataset_is_added_listed_shown_compared_and_brought_back(
    run: Callable[..., Result],
    read: Callable[..., Any],
    folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    first = read("add", "dataset", folder("one"), "--name", "reviews", "--version", "1")
    assert (first["created"], first["copied_files"], first["bytes"]) == (True, 1, 3)
    again = run("add", "dataset", folder("one"), "--name", "reviews", "--version", "1")
    assert "nothing new: dataset reviews:1 has this content already" in again.stderr
    run("add", "dataset", folder("two"), "--name", "reviews", "--version", "2", "--label", "rows=1")
    taken = run("add", "dataset", folder("two"), "--name", "reviews", "--version", "1", code=1)
    assert "a version never changes" in taken.stderr

    rows = read("list", "--kind", "dataset", "--name", "reviews")["datasets"]
    assert [(row["version"], row["labels"]) for row in rows] == [
        ("2", {"rows": 1, "version": "2"}),
        ("1", {"version": "1"}),
    ]
    assert "verified 1 item" in run("verify", "reviews:2").stderr
    assert read("show", "reviews:1")["content"] == first["content"]
    assert read("diff", "reviews:1", "reviews:2")["changed"] == {"rows": [3, 3]}
    assert "1 changed, 0 unchanged" in run("diff", "reviews:1", "reviews:2").stderr
    assert "got reviews:1" in run("get", "reviews:1", tmp_path / "got").stderr
    assert (tmp_path / "got/rows").read_text() == "one"


def test_a_promoted_model_is_served_from_a_volume_and_protected(
    run: Callable[..., Result],
    read: Callable[..., Any],
    folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "volume").mkdir()
    place = ("--volume", tmp_path / "volume", "--run", "serve")
    run("add", "model", folder("m1"), "--name", "churn", "--version", "1")
    run("promote", "churn", "1", "--alias", "production")
    run("add", "model", folder("m2"), "--name", "churn", "--version", "2",
        "--parent", "churn@production")  # fmt: skip
    assert read("show", "churn:2")["lineage"]["parent"]["versions"] == ["churn:1"]

    assert read("get", "churn@production", "--on-volume", *place)["generation"] == 1
    moved = read("promote", "churn", "2", "--alias", "production")
    assert (moved["before"], moved["version"], moved["changed"]) == ("1", "2", True)
    assert "generation 2" in run("get", "churn@production", "--on-volume", *place).stderr
    monkeypatch.setenv("HOLDFAST_MODEL", "churn@production")
    assert "is there already" in run("get", "--on-volume", *place).stderr
    latest = Path(read("latest", "--kind", "model", *place)["path"])
    assert (latest / "rows").read_text() == "m2"

    pushed = read("push", "--kind", "model", "--workload", "serve", *place)
    assert pushed["copied_files"] == 0
    shown = run("show", "churn@production").stdout
    assert "model" in shown and "from parent" in shown and "Aliases, the latest first" in shown


def test_a_version_is_deleted_by_name_unless_an_alias_means_it(
    run: Callable[..., Result], folder: Callable[[str], Path]
) -> None:
    for version in ("1", "2"):
        run("add", "model", folder(version), "--name", "churn", "--version", version)
    run("promote", "churn", "1", "--alias", "production")

    refused = run("delete", "churn:1", code=1)
    assert "promote another version first, or give --aliased" in refused.stderr
    by_id = run("delete", "0000000002", "--workload", "models", code=2)
    assert "is a version: give its name, churn:2" in by_id.stderr
    run("delete", "churn:2", "--dry-run")
    run("delete", "churn:2")
    run("delete", "churn:1", "--aliased")
    assert "none" in run("list", "--kind", "model").stderr
    assert "was deleted" in run("show", "churn@production", code=1).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "thing", ".", "--name", "a", "--version", "1"), "use dataset or model"),
        (("add", "dataset", ".", "--name", "a"), "give --version or set HOLDFAST_VERSION"),
        (("add", "dataset", ".", "--name", "A", "--version", "1"), "invalid name 'A'"),
        (("get", "a"), "give either DIR or --on-volume"),
        (("get", "a", "x", "--run", "r"), "--run does nothing without --on-volume"),
        (("promote", "a", "1"), "no alias is named"),
        (("promote", "a", "1/2", "--alias", "b"), "invalid version '1/2'"),
        (("list", "--name", "a"), "--name does nothing without --kind dataset or model"),
        (("list", "--kind", "model", "--run", "r"), "--run does nothing with --kind dataset"),
        (("delete", "a:1", "--run", "r"), "--run does nothing with a version"),
        (("delete", "0000000001", "--aliased"), "--aliased does nothing with a snapshot"),
    ],
)
def test_what_makes_no_sense_is_misuse(
    run: Callable[..., Result], words: tuple[str, ...], message: str
) -> None:
    assert message in run(*words, code=2).stderr


def pipeline_snapshot(labels: dict[str, str | int]) -> list[BundleRef]:
    """A snapshot as a pipeline's backup writes it, which names what else is in the store."""
    catalog = Catalog(open_store(os.environ["HOLDFAST_STORE"]), "team/prod")
    others = [ref for one in catalog.snapshots("datasets") for ref in one.bundles]
    with writing(catalog, "pipeline"):
        began = catalog.store.now()
        refs = []
        for kind, size in (("database", 2048), ("artifact-list", 100), ("artifacts", 3 << 20)):
            made = StreamedBundle(catalog, "pipeline", "tracking", 1, kind, f"{kind}-20261126t1")
            made.put("file", [bytes(size)])
            refs.append(made.commit())
        refs += others
        write_snapshot(catalog, "pipeline", "tracking", 1, refs, began=began, labels=labels)
    return refs


def test_a_pipelines_snapshot_is_listed_by_what_it_holds(
    run: Callable[..., Result], read: Callable[..., Any], folder: Callable[[str], Path]
) -> None:
    for text in "ab":
        run("add", "dataset", folder(text), "--name", "reviews", "--version", text)
    refs = pipeline_snapshot({"artifacts": 18})
    pipeline_snapshot({})

    without, line = run("list", "--kind", "pipeline").stdout.splitlines()[-2:]

    assert "database 2.0 KiB; 18 artifacts, 3.0 MiB; 2 datasets" in line
    assert "database 2.0 KiB; artifacts 3.0 MiB; 2 datasets" in without, "of an earlier version"
    assert not any(ref.name in line for ref in refs)
    _, row = read("list", "--kind", "pipeline")["snapshots"]
    assert row["bundles"] == [ref.name for ref in refs]
    assert row["labels"] == {"artifacts": 18}

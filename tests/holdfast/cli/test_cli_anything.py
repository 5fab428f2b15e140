"""Whatever is typed, set or found on the storage: one line, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from holdfast.cli import app
from testkit.command_line import all_verbs

#: Kills, generated input or whole stores: minutes in all.
pytestmark = pytest.mark.slow

#: more find more: EXAMPLES=1000 before a release
EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
#: all but the one that ends only when it is told to
VERBS = {name: verb for name, verb in all_verbs().items() if name != "watch"}
#: what no generated option or variable may name: other places of this machine
CONFINED = {"api", "artifacts", "store", "volume", "into", "parent", "directory", "decision_file"}
#: what an argument can hold: any letter, and a byte that is none
LETTERS = st.one_of(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    st.sampled_from("\udc80\udcff"),
)
TEXTS = st.one_of(
    st.text(LETTERS, max_size=12),
    st.sampled_from(
        ["latest", "before=", "before=2026-01-01", "before=9999-12-31T23:59:59-12:00", "0", "00000",
         "-1", "1e9", "9" * 30, "nan", "inf", "1.5", "true", "256MiB", "1EB", "0x10", "a/b",
         "a/b/c", "/", "..", ".", "step-00000001", "a=b", "step=x", "generation=9007199254740993",
         "é=ü", "json", "table", "all", "store", "volume", "auto", "require", "r" * 300,
         "[bold]x[/]"]
    ),
)  # fmt: skip
PLACES = st.sampled_from(
    ["{root}/volume", "{root}/store", "{root}/nowhere", "{root}/file", "{root}/out", "{root}/a\nb",
     "{root}/" + "x" * 300]
)  # fmt: skip
STORES = st.sampled_from(
    ["file://{root}/store/team/prod", "file://{root}/nowhere/a", "file://{root}/file/a", "file://",
     "file:relative", "s3://", "s3://[", "s3:///x", "http://x", "x", "file://host/x", "s3://b/../x",
     "s3://b/a//b", "file://{root}/store/team/prod%00", "file://{root}/%ff", "://", "s3://é/x"]
)  # fmt: skip
APIS = st.sampled_from(
    ["http://127.0.0.1:9", "http://127.0.0.1:99999", "http://[", "127.0.0.1:9", "https://", "ftp://x",
     "http://127.0.0.1:9/ x", "http://é"]
)  # fmt: skip
DOCUMENTS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 50_000, b"null", b"[]", b"{}", b"1e999", b"9" * 5000,
         b"\xff\xfe", b'{"format":1,"project":1,"stack":[]}', b'{"id":{}}',
         b'"' + b"x" * 70_000 + b'"']
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A verb with some of its options, each with a value that may or may not fit."""
    verb = draw(st.sampled_from(sorted(VERBS)))
    words = verb.split()
    for param in VERBS[verb].params:
        if param.name == "help" or not (param.required or draw(st.integers(0, 3)) == 0):
            continue
        value = draw(_values(param.name))
        if param.param_type_name == "argument":
            words.append(value)
        elif param.is_flag:
            words.append(param.opts[0])
        else:
            words.append(f"{param.opts[0]}={value}")
    return words


def _values(name: str) -> st.SearchStrategy[str]:
    if name == "store":
        return STORES
    if name == "api":
        return APIS
    return PLACES if name in CONFINED else TEXTS


@st.composite
def environments(draw: st.DrawFn) -> dict[str, str]:
    """Variables of the verbs, over valid ones."""
    names = {
        param.envvar: param.name
        for verb in VERBS.values()
        for param in verb.params
        if isinstance(param.envvar, str)
    }
    chosen = draw(st.lists(st.sampled_from(sorted(names)), max_size=3))
    return {name: draw(_values(names[name])) for name in chosen}


@pytest.fixture
def root(places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith(("HOLDFAST_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("holdfast.control.run_action.FIRST_ANSWER_SECONDS", 0)
    inside = tmp_path / "cwd"
    inside.mkdir()
    monkeypatch.chdir(inside)
    yield tmp_path / "root"


def _renew(root: Path, places: dict[str, str]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(places["HOLDFAST_VOLUME"], root / "volume")
    shutil.copytree(Path(urlsplit(places["HOLDFAST_STORE"]).path).parents[1], root / "store")
    (root / "out").mkdir()
    (root / "out" / "f").write_text("x")
    (root / "file").write_text("x")


def _check(words: list[str], environment: dict[str, str]) -> None:
    result = CliRunner().invoke(app, words, env=environment)
    told = f"{words} {environment}\n{result.output}"
    assert result.exit_code in (0, 1, 2, 75, 76), told
    assert "Traceback" not in result.output, told
    assert "unexpected" not in result.stderr, told
    assert all(line.isprintable() for line in result.stderr.split("\n")), told
    if result.exit_code in (2, 76):
        assert result.stderr.count("holdfast: ") == 1, told


def _settings(root: Path, places: dict[str, str]) -> dict[str, str]:
    return {
        **places,
        "HOLDFAST_VOLUME": str(root / "volume"),
        "HOLDFAST_STORE": (root / "store" / "team" / "prod").as_uri(),
        "HOLDFAST_DEADLINE": "5",
        "HOLDFAST_TIMEOUT": "1",
        "PGHOST": "/nonexistent",  # no verb of this test may find a database
        "HOLDFAST_ARTIFACTS": str(root / "out"),
    }


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(words=command_lines(), environment=environments())
def test_no_options_and_no_variables_end_in_a_traceback(
    root: Path, places: dict[str, str], words: list[str], environment: dict[str, str]
):
    _renew(root, places)
    changed = {name: value.replace("{root}", str(root)) for name, value in environment.items()}
    _check(
        [word.replace("{root}", str(root)) for word in words],
        {**_settings(root, places), **changed},
    )


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    document=DOCUMENTS,
    which=st.integers(0, 100),
    words=st.sampled_from(
        ["list", "verify", "verify latest", "show latest", "show step-00000002", "push", "pull",
         "pull --if-empty", "stage", "prune", "prune --side volume --keep 1", "doctor", "latest",
         "pin latest", "unpin latest", "delete 0000000001", "adopt a/b", "switch --generation 1",
         "push --select all", "adopt a/b --owner c/d", "switch x"]
    ),
    kind=st.sampled_from(["replace", "directory", "fresh"]),
)  # fmt: skip
def test_no_document_on_the_storage_ends_in_a_traceback(
    root: Path, places: dict[str, str], document: bytes, which: int, words: str, kind: str
):
    _renew(root, places)
    files = sorted(path for path in root.rglob("*") if path.is_file() and root / "out" not in
                   path.parents)  # fmt: skip
    path = files[which % len(files)]
    path.parent.chmod(0o755)
    if kind == "fresh":
        path = path.with_name(["x.json", "9" * 30 + ".json", ".nfs1", "gen-99999999999"][which % 4])
    else:
        path.unlink()
    if kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(document)
    _check(words.split(), _settings(root, places))

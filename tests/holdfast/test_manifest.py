import hashlib
import json
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidManifest
from holdfast.manifest import (
    MANIFEST,
    MAX_INTEGER,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    canonical,
    path_problems,
)

CREATED = datetime(2026, 8, 21, 9, 30, tzinfo=UTC)

integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
components = st.from_regex(r"[a-zé_.-]{0,7}[a-zé]", fullmatch=True).filter(
    lambda part: unicodedata.is_normalized("NFC", part) and part not in {".", ".."}
)
paths = st.lists(components, min_size=1, max_size=3).map("/".join)
hashes = st.binary(max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
entries = st.builds(FileEntry, path=paths, size=st.integers(0, MAX_INTEGER), sha256=hashes)
labels = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_.-]{0,9}", fullmatch=True), st.text() | integers, max_size=5
)
file_lists = st.lists(entries, min_size=1, max_size=6).filter(
    lambda files: not path_problems([entry.path for entry in files])
)


def entry(path: str, data: bytes = b"") -> FileEntry:
    return FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def small() -> Manifest:
    files = [entry("b/x.bin", b"12345"), entry(".metadata", b"plan")]
    return Manifest.build("checkpoint", "step-00000100", files, {"step": 100, "run": "a"}, CREATED)


def edited(**changes: object) -> bytes:
    """The small manifest with other fields and hashes that fit them: only a rule can refuse it."""
    fields = json.loads(small().to_bytes()) | changes
    if "content" not in changes:
        fields["content"] = hashlib.sha256(rfc8785.dumps(fields["files"])).hexdigest()
    signed = {key: fields[key] for key in fields if key not in {"digest", "signature"}}
    return rfc8785.dumps(fields | {"digest": hashlib.sha256(rfc8785.dumps(signed)).hexdigest()})


@given(json_values)
def test_canonical_json_is_that_of_rfc_8785(value):
    assert canonical(value) == rfc8785.dumps(value)


def test_canonical_json_orders_keys_by_utf_16_and_not_by_code_point():
    assert canonical({"\U0001f600": 1, "\ufb33": 2}) == '{"\U0001f600":1,"\ufb33":2}'.encode()


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, -(2**53), b"x", {1: 2}, {"a": {1, 2}}])
def test_canonical_json_refuses_what_readers_disagree_about(value):
    with pytest.raises(ValueError, match="canonical JSON"):
        canonical(value)


@given(file_lists, labels, st.datetimes(timezones=st.just(UTC)))
def test_a_manifest_survives_the_round_trip(files, labels, created):
    manifest = Manifest.build("dataset", "corpus-1", files, labels, created)
    data = manifest.to_bytes()
    assert Manifest.parse(data) == manifest
    assert data == rfc8785.dumps(json.loads(data))
    assert manifest.created == created.replace(microsecond=0)


def test_files_may_come_in_any_order_and_equal_files_give_equal_content():
    one, two = entry("a", b"1"), entry("b", b"2")
    first = Manifest.build("files", "x", [one, two], {"step": 1}, CREATED)
    second = Manifest.build("files", "y", [two, one], {"step": 2})
    assert [file.path for file in second.files] == ["a", "b"]
    assert first.content == second.content
    assert first.digest != second.digest


def test_the_hashes_are_computed_as_the_format_says():
    fields = json.loads(small().to_bytes())
    content = hashlib.sha256(rfc8785.dumps(fields["files"])).hexdigest()
    assert (fields["content"], fields.pop("signature")) == (content, None)
    digest = fields.pop("digest")
    assert digest == hashlib.sha256(rfc8785.dumps(fields)).hexdigest()


def test_the_example_of_the_format_page_is_a_manifest_to_the_byte():
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    files = [entry(".metadata", b"plan"), entry("rng/0.bin", b"\x00\x01")]
    made = {"generation": 1, "run": "gpt-small", "step": 100}
    manifest = Manifest.build("checkpoint", "step-00000100", files, made, CREATED)
    assert manifest.to_bytes().decode() in page.splitlines()


def test_files_are_sorted_by_bytes():
    names = ["b", "a-b", "a/b", "é", "Z", "\U0001f600", "\ufb00"]
    manifest = Manifest.build("files", "x", [entry(name) for name in names], {}, CREATED)
    assert [file.path for file in manifest.files] == sorted(names, key=str.encode)


def test_times_are_written_in_utc():
    there = datetime(2026, 8, 21, 11, 30, 0, 999, tzinfo=timezone(timedelta(hours=2)))
    manifest = Manifest.build("files", "x", [entry("a")], {}, there)
    assert b'"created":"2026-08-21T09:30:00Z"' in manifest.to_bytes()


def test_every_single_flipped_bit_is_refused():
    data = small().to_bytes()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(InvalidManifest):
            Manifest.parse(bytes(flipped))


def test_every_truncation_and_addition_is_refused():
    data = small().to_bytes()
    for end in range(len(data)):
        with pytest.raises(InvalidManifest):
            Manifest.parse(data[:end])
    for more in (b"\n", b" ", b"\0", data):
        with pytest.raises(InvalidManifest):
            Manifest.parse(data + more)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_with_a_reason(data):
    with pytest.raises(InvalidManifest, match=r"\w"):
        Manifest.parse(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format"),
        ({"kind": "Checkpoint"}, "kind"),
        ({"name": "../up"}, "name"),
        ({"name": "step/1"}, "name"),
        ({"name": "n" * 129}, "name"),
        ({"created": "2026-08-21 09:30:00Z"}, "created"),
        ({"created": "2026-13-21T09:30:00Z"}, "created"),
        ({"created": "2026-08-21T09:30:00+00:00"}, "created"),
        ({"labels": {"Step": 1}}, "labels"),
        ({"labels": {"step": True}}, "labels"),
        ({"labels": {"step": None}}, "labels"),
        ({"labels": {"step": ["1"]}}, "labels"),
        ({"files": []}, "files"),
        ({"files": [{"path": "a", "size": -1, "sha256": "0" * 64}]}, "size"),
        ({"files": [{"path": "a", "size": "1", "sha256": "0" * 64}]}, "size"),
        ({"files": [{"path": "a", "size": 1, "sha256": "A" * 64}]}, "sha256"),
        ({"files": [{"path": "a", "size": 1, "sha256": "0" * 64, "mode": 7}]}, "mode"),
        ({"files": [{"path": "../a", "size": 1, "sha256": "0" * 64}]}, "has a part '..'"),
        ({"content": "0" * 64}, "content hash"),
        ({"signature": "me"}, "signature"),
        ({"more": 1}, "more"),
    ],
)
def test_a_field_that_breaks_a_rule_is_refused_even_where_all_hashes_fit(change, reason):
    with pytest.raises(InvalidManifest, match=reason):
        Manifest.parse(edited(**change))


def test_unsorted_or_repeated_files_are_refused():
    files = json.loads(small().to_bytes())["files"]
    for wrong in (files[::-1], [files[0], files[0]]):
        with pytest.raises(InvalidManifest, match=r"sorted|twice"):
            Manifest.parse(edited(files=wrong))


def test_an_unchanged_edit_would_pass_so_the_refusals_above_are_the_rules():
    assert edited() == small().to_bytes()


def test_a_larger_file_is_refused_before_it_is_read_as_json():
    with pytest.raises(InvalidManifest, match="larger than 64 MiB"):
        Manifest.parse(b"[" * (MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "no kind"}, "kind"),
        ({"name": "Up"}, "name"),
        ({"name": "x\n"}, "name"),
        ({"labels": {"loss": 0.5}}, "loss"),
        ({"labels": {"step": 2**53}}, "step"),
        ({"labels": {"text": "\ud800"}}, "text"),
        ({"created": datetime(2026, 8, 21)}, "created"),  # noqa: DTZ001
        ({"files": []}, "files"),
        ({"files": [entry("a"), entry("A")]}, "case"),
    ],
)
def test_build_refuses_what_parse_would_refuse(fields, reason):
    good: dict[str, Any] = {
        "kind": "files",
        "name": "x",
        "files": [entry("a")],
        "labels": {},
        "created": CREATED,
    }
    with pytest.raises(InvalidManifest, match=reason) as caught:
        Manifest.build(**{**good, **fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("a/../../b", "has a part '..'"),
        ("..", "has a part '..'"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("./a", "part '.'"),
        ("a\\b", "backslash"),
        ("a\nb", "control character"),
        ("a\x7fb", "control character"),
        ("a\x85b", "control character"),
        ("e\u0301", "NFC"),
        ("a\udce9", "UTF-8"),
        ("a" * 256, "longer than 255"),
        ("a/" * 256 + "a", "longer than 512"),
        (MANIFEST, "reserved for the manifest"),
        ("manifest.json", "only in case"),
    ],
)
def test_a_path_that_not_every_system_can_hold_is_refused(path, problem):
    found = path_problems([path])
    assert len(found) == 1
    assert problem in found[0]
    assert found[0].isprintable()


@pytest.mark.parametrize(
    "path",
    [".metadata", "a" * 255, "a/" * 255 + "ab", "sub/MANIFEST.json", "ein Weg/über/Ünïcode",
     "...", "a b", "#1", "-rf", "~", "con", "日本/語"],
)  # fmt: skip
def test_ordinary_paths_are_allowed(path):
    assert path_problems([path]) == []


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        (["a", "a"], "twice"),
        (["Data", "data"], "only in case"),
        (["straße", "STRASSE"], "only in case"),
        (["A/x", "a/y"], "only in case"),
        (["x/B", "x/b/c"], "only in case"),
        (["a", "a/b"], "file and a directory"),
    ],
)
def test_paths_that_collide_somewhere_are_refused(pair, problem):
    for order in (pair, pair[::-1]):
        assert any(problem in found for found in path_problems(order))


def test_every_problem_is_reported_and_not_just_the_first():
    assert len(path_problems(["/a", "b\\c", "ok", "OK", "..", "d\te"])) == 5


@given(st.lists(st.text(max_size=12), max_size=5))
def test_paths_that_pass_stay_inside_the_bundle(paths):
    if path_problems(paths):
        return
    for path in paths:
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        assert path.encode().decode() == path
    assert len({path.casefold() for path in paths}) == len(paths)

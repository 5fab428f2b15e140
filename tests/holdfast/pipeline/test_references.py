"""What a dump's text mentions, and whether a list of artifacts has it. No database is needed."""

from __future__ import annotations

import pytest

from holdfast.errors import Mismatch
from holdfast.pipeline.artifact_list import ArtifactList, Entry
from holdfast.pipeline.contents import Contents, LoggedModel, Run, Version, from_text
from holdfast.pipeline.references import check_references, differences
from holdfast.pipeline.versions import fingerprint, misfits, same_key

TEXT = rb"""-- Dumped from database version 16.14
-- Dumped by pg_dump version 17.2
COPY public.alembic_version (version_num) FROM stdin;
dc11669786a5
\.
COPY public.model_versions (name, version, source, status, storage_location, current_stage, workspace) FROM stdin;
churn	1	models:/m-1	READY	\N	None	default
churn	2	s3://elsewhere/x	READY	\N	None	default
old	1	models:/m-9	READY	\N	Deleted_Internal	default
\.
COPY public.registered_model_aliases (alias, version, name, workspace) FROM stdin;
production	1	churn	default
lost	7	churn	default
\.
COPY public.runs (run_uuid, lifecycle_stage, artifact_uri) FROM stdin;
r1	active	mlflow-artifacts:/0/r1/artifacts
r2	deleted	mlflow-artifacts:/0/r2/artifacts
\.
COPY public.tags (key, value, run_uuid) FROM stdin;
note	a\tb\\c\nCOPY public.runs (run_uuid) FROM stdin;	r1
holdfast.dataset	abc	r1
mlflow.loggedArtifacts	[{"path": "t.json", "type": "table"}]	r1
mlflow.loggedArtifacts	not JSON	r2
\.
COPY public."logged_models" (model_id, artifact_location, status, lifecycle_stage) FROM stdin;
m-1	mlflow-artifacts:/0/models/m-1/artifacts	2	active
m-2	mlflow-artifacts:/0/models/m-2/artifacts	1	active
\.
COPY public.somebody_elses (a) FROM stdin;
1
\.
"""  # noqa: E501


def held(*paths: str) -> ArtifactList:
    return ArtifactList(entries={path: Entry(path, 1, "0" * 64, "b", "1") for path in paths})


def test_a_dumps_text_is_read_with_its_escapes_and_without_what_is_not_asked_for():
    contents = from_text([TEXT[:100], TEXT[100:311], TEXT[311:]])
    assert (contents.postgresql, contents.pg_dump, contents.schema) == (16, 17, "dc11669786a5")
    assert sorted(contents.runs) == ["r1", "r2"]
    assert contents.datasets == {"r1": "abc"}
    assert contents.named_files == [("r1", "t.json")]
    assert [str(version) for version in contents.versions.values()] == [
        "churn version 1",
        "churn version 2",
    ]
    assert [model.ready for model in contents.logged_models.values()] == [True, False]


TRACES = rb"""COPY public.trace_tags (key, value, request_id) FROM stdin;
mlflow.traceName	mlflow.artifactLocation	tr-a
mlflow.artifactLocation	mlflow-artifacts:/1/traces/tr-a/artifacts	tr-a
mlflow.artifactLocation	mlflow-artifacts:/1/traces/tr-b/artifacts	tr-b
mlflow.trace.spansLocation	TRACKING_STORE	tr-b
mlflow.artifactLocation	mlflow-artifacts:/1/traces/tr-c/artifacts	tr-c
mlflow.trace.spansLocation	ARCHIVE_REPO	tr-c
mlflow.trace.archiveLocation	mlflow-artifacts:/archive/tr-c	tr-c
\.
COPY public.spans (trace_id, content) FROM stdin;
tr-b	{"mlflow.spanOutputs": "{\\"img\\": \\"mlflow-attachment://d5-4f?content_type=image%2Fpng&trace_id=tr-b&size=3\\"}"}
tr-b	{"nothing": "is attached"}
\.
"""
NEEDED = {
    "1/traces/tr-a/artifacts/traces.json": "trace tr-a, traces.json",
    "1/traces/tr-b/artifacts/attachments/d5-4f": "trace tr-b, d5-4f",
    "archive/tr-c/traces.pb": "trace tr-c, tr-c",
}


def test_a_trace_needs_its_spans_where_they_are_and_its_attachments():
    contents = from_text([TRACES])
    found = check_references(contents, held(*NEEDED).holds, "/mnt/artifacts", None)
    assert (found.problems, found.counts["traces"]) == ({}, 3)


@pytest.mark.parametrize("lost", NEEDED)
def test_what_a_trace_lacks_is_named(lost: str):
    left = held(*(path for path in NEEDED if path != lost))
    found = check_references(from_text([TRACES]), left.holds, "/mnt/artifacts", None)
    assert list(found.problems) == [NEEDED[lost]]


def test_a_text_that_ends_within_a_table_is_refused():
    with pytest.raises(Mismatch, match="middle of a table"):
        from_text([TEXT[: TEXT.index(b"churn\t2")]])


def test_each_reference_that_dangles_is_named():
    contents = from_text([TEXT])
    whole = held("0/models/m-1/artifacts/MLmodel", "0/r1/artifacts/t.json")
    found = check_references(contents, whole.holds, "/mnt/artifacts", {"abc"})
    assert found.problems == {
        "model churn version 2": "'s3://elsewhere/x' is not below the artifacts that are protected",
        "alias churn@lost": "names version 7, which is not there",
    }
    nothing = check_references(contents, held().holds, "/mnt/artifacts", set())
    assert set(nothing.problems) - set(found.problems) == {
        "model churn version 1",
        "logged model m-1",
        "run r1, t.json",
        "run r1, dataset abc",
    }


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("mlflow-artifacts:/a/b", "/elsewhere"),
        ("mlflow-artifacts://host:5000/api/2.0/mlflow-artifacts/artifacts/a/b", "/elsewhere"),
        ("s3://bucket/prefix/a/b", "s3://bucket/prefix"),
        ("file:///mnt/art/a/b", "/mnt/art/"),
        ("/mnt/art/a/b", "/mnt/art"),
        ("runs:/r/b", "/elsewhere"),
        ("models:/m", "/elsewhere"),
        ("models:/other/3", "/elsewhere"),
    ],
)
def test_a_location_is_found_in_every_form_that_mlflow_writes(uri: str, place: str):
    contents = Contents(
        runs={"r": Run("mlflow-artifacts:/a", True)},
        logged_models={"m": LoggedModel("mlflow-artifacts:/a/b", False)},
        versions={
            ("", "other", "3"): Version("other", "3", "mlflow-artifacts:/a/b", False),
            ("", "churn", "1"): Version("churn", "1", uri, True),
        },
    )
    assert check_references(contents, held("a/b/MLmodel").holds, place, None).problems == {}
    wrong = check_references(contents, held("a/bc/MLmodel").holds, place, None).problems
    assert wrong == {"model churn version 1": "has no files at 'a/b'"}


def test_a_location_that_leads_to_itself_is_named():
    version = Version("churn", "1", "models:/churn/1", True)
    contents = Contents(versions={("", "churn", "1"): version})
    problems = check_references(contents, held().holds, "/mnt", None).problems
    assert "leads to itself" in problems["model churn version 1"]


def test_what_is_lost_or_moved_in_the_live_database_is_named():
    snapshot, live = from_text([TEXT]), from_text([TEXT])
    live.runs.clear()
    live.aliases["default", "churn", "production"] = "2"
    assert differences(snapshot, live) == {
        "run r1": "is not in the database",
        "alias churn@production": "names version 2, not 1 as in the snapshot",
    }
    assert differences(snapshot, snapshot) == {}


def test_a_list_reads_as_it_was_written():
    entries = {
        path: Entry(path, len(path), "a" * 64, "artifacts-1", f"{number:08d}", "1-2-3", number == 1)
        for number, path in enumerate(("a/b", "ä b", "z\u2028z", "𐐀"))
    }
    found = ArtifactList("/mnt", entries, {"model x": "has no files"}, {"l": "is a link"}, {"n": 1})
    lines = list(found.to_lines())
    read = ArtifactList.parse([b"".join(lines)[:70], b"".join(lines)[70:]])
    assert (read.entries, read.missing, read.skipped) == (entries, found.missing, found.skipped)
    assert (read.place, read.counts, read.newer) == ("/mnt", {"n": 1}, ["ä b"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"\n".join(data.split(b"\n")[:-2]) + b"\n",
        lambda data: data.replace(b'"format":1', b'"format":2'),
        lambda data: data.replace(b"a/b", b"../b"),
        lambda data: data.replace(b'"size":3', b'"size":"x"'),
        lambda data: b"[]\n",
        lambda data: b"",
    ],
)
def test_a_list_that_is_cut_off_or_leads_out_is_refused(damage):
    data = b"".join(held("a/b").to_lines()).replace(b'"size":1', b'"size":3')
    with pytest.raises(Mismatch):
        ArtifactList.parse([damage(data)])


def test_a_fingerprint_tells_keys_apart_and_does_not_repeat_itself():
    one, again = fingerprint("correct horse"), fingerprint("correct horse")
    assert one != again
    assert same_key(one, "correct horse")
    assert same_key(again, "correct horse")
    assert not same_key(one, "battery staple")
    assert not same_key(one, "")
    assert same_key(fingerprint(""), "")
    assert not same_key(fingerprint(""), "correct horse")


def test_another_key_is_no_obstacle_where_there_are_no_secrets():
    recorded = {"key": fingerprint("correct horse"), "secrets": 0, "postgresql": 16}
    assert misfits(recorded, 16, {}) == {}
    assert set(misfits({**recorded, "secrets": 1}, 15, {})) == {"key", "postgresql"}


def test_an_older_mlflow_is_refused_by_its_version_where_its_schemas_are_not_known(monkeypatch):
    monkeypatch.setattr("holdfast.pipeline.versions.known_schemas", set)
    recorded = {"mlflow": "3.17.2", "schema": "dc11669786a5"}
    told = {"HOLDFAST_MLFLOW_VERSION": "3.9.0"}
    assert "use MLflow 3.17.2 or newer" in misfits(recorded, 16, told)["mlflow"]
    assert misfits(recorded, 16, {"HOLDFAST_MLFLOW_VERSION": "3.18.0"}) == {}

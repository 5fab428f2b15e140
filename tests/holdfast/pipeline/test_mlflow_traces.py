"""With a real MLflow server: traces come back with their spans and attachments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.pipeline.artifacts import open_artifacts
from holdfast.pipeline.database import Database
from holdfast.pipeline.pull import pull
from holdfast.pipeline.push import push
from holdfast.pipeline.verify import check, verify
from holdfast.store.snapshot import Catalog
from testkit.mlflow_server import serve_mlflow
from testkit.postgresql import PostgreSQL

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

#: Two traces: one as MLflow logs it, with an attachment; one as clients before 3.0 did, which put
#: the spans among the artifacts only. In a process of its own, since MLflow's tracing is global.
LOG = """
import sys
import mlflow
from mlflow.tracing.attachments import Attachment
from mlflow.tracing.client import TracingClient

mlflow.set_tracking_uri(sys.argv[1])
experiment = mlflow.set_experiment("traced").experiment_id
with mlflow.start_span("answer") as span:
    span.set_inputs({"question": 1})
    span.set_outputs({"image": Attachment(content_type="image/png", content_bytes=b"png")})
mlflow.flush_trace_async_logging()
client = TracingClient(sys.argv[1])
(trace,) = mlflow.MlflowClient().search_traces(experiment_ids=[experiment])
trace.info.trace_id, trace.info.tags = "tr-" + "0" * 32, {}
client._upload_trace_data(client.start_trace(trace.info), trace.data)
"""
OLD = "tr-" + "0" * 32


def test_traces_are_followed_and_back_with_their_spans_and_attachments(
    postgresql: PostgreSQL,
    database: str,
    catalog: Catalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    place = tmp_path / "artifacts"
    place.mkdir()
    artifacts, live = open_artifacts(str(place), memory=2**26), Database()
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with serve_mlflow(postgresql, database, place, tmp_path) as server:
        subprocess.run([sys.executable, "-c", LOG, server.url], env=quiet, check=True, timeout=300)

    report = push(live, artifacts, catalog, "tracking")

    assert report.artifacts.missing == {}
    assert report.artifacts.counts["traces"] == 2
    assert verify(catalog, report.snapshot).ok
    (attachment,) = place.rglob("attachments/*")
    (spans,) = place.rglob(f"{OLD}/artifacts/traces.json")
    for path in (attachment, spans):
        path.rename(tmp_path / path.name)
    problems = check(live, artifacts, catalog, report.snapshot).problems
    named = {what for what in problems if what.startswith("trace ")}
    trace = attachment.parents[2].name
    assert named == {f"trace {trace}, {attachment.name}", f"trace {OLD}, traces.json"}

    postgresql.drop(database)
    postgresql.create(database)
    pull(live, artifacts, catalog, report.snapshot)
    assert check(live, artifacts, catalog, report.snapshot).problems == {}
    assert attachment.read_bytes() == b"png"
    with serve_mlflow(postgresql, database, place, tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)  # its client asks for artifacts there
        client = server.client()
        for one in (trace, OLD):
            (span,) = client.get_trace(one).data.spans
            assert (span.name, span.inputs) == ("answer", {"question": 1})

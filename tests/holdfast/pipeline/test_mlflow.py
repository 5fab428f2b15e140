"""With a real MLflow server: what it logs comes back, and is there through its own client."""

from __future__ import annotations

import shutil
import time
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
from tests.pipeline_soak import MODEL, Logger, soak

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def test_runs_models_and_aliases_are_back_through_mlflows_own_client(
    postgresql: PostgreSQL, database: str, catalog: Catalog, tmp_path: Path
):
    place = tmp_path / "artifacts"
    place.mkdir()
    artifacts, live = open_artifacts(str(place), memory=2**26), Database()
    with serve_mlflow(postgresql, database, place, tmp_path) as server:
        client = server.client()
        experiment = client.create_experiment("churn")
        run = client.create_run(experiment).info
        client.log_metric(run.run_id, "auc", 0.75)
        client.log_text(run.run_id, "weights", "model/MLmodel")
        client.create_registered_model("churn")
        client.create_model_version("churn", f"{run.artifact_uri}/model", run.run_id)
        client.set_registered_model_alias("churn", "production", "1")
        report = push(live, artifacts, catalog, "tracking")
    assert report.snapshot.labels["schema"]
    assert str(report.snapshot.labels["mlflow"]).startswith("3.17.")
    assert verify(catalog, report.snapshot).ok
    postgresql.drop(database)
    postgresql.create(database)
    shutil.rmtree(place)
    place.mkdir()
    with serve_mlflow(postgresql, database, place, tmp_path):
        pass  # a new server has made its tables: this still counts as empty

    pull(live, artifacts, catalog, report.snapshot)

    assert check(live, artifacts, catalog, report.snapshot).problems == {}
    with serve_mlflow(postgresql, database, place, tmp_path) as server:
        client = server.client()
        assert client.get_run(run.run_id).data.metrics == {"auc": 0.75}
        version = client.get_model_version_by_alias("churn", "production")
        assert (version.version, version.run_id) == ("1", run.run_id)
        below = Path(client.download_artifacts(run.run_id, "model", str(tmp_path)))
        assert (below / "MLmodel").read_text() == "weights"


def test_every_snapshot_taken_while_clients_log_restores_to_a_consistent_prefix():
    """Ten minutes and 20 snapshots: `python -m tests.pipeline_soak`."""
    figures = soak(seconds=9, snapshots=3)
    assert len(figures.restored_runs) == 3
    assert figures.restored_runs[-1] > figures.restored_runs[0] > 0


def test_a_server_killed_while_a_client_logs_leaves_nothing_that_dangles(
    postgresql: PostgreSQL, database: str, catalog: Catalog, tmp_path: Path
):
    place, restored = tmp_path / "artifacts", tmp_path / "restored"
    place.mkdir()
    restored.mkdir()
    with serve_mlflow(postgresql, database, place, tmp_path) as server:
        server.client().create_registered_model(f"{MODEL}-client")
        logger = Logger(server, "client")
        logger.start()
        end = time.monotonic() + 60
        while logger.versions < 2 and logger.is_alive() and time.monotonic() < end:
            logger.join(0.05)
        server.stop()
        logger.stopping.set()  # what is under way waits for a server that is gone

    live, artifacts = Database(), open_artifacts(str(place), memory=2**26)
    report = push(live, artifacts, catalog, "tracking")

    assert report.artifacts.missing == {}
    assert report.artifacts.counts["model versions"] >= 2
    postgresql.drop(database)
    postgresql.create(database)
    artifacts = open_artifacts(str(restored), memory=2**26)
    pull(live, artifacts, catalog, report.snapshot)
    assert check(live, artifacts, catalog, report.snapshot).problems == {}

"""What a training tells MLflow, and that it never suffers from it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from holdfast.bundle import commit_directory
from holdfast.errors import UsageError
from holdfast.manifest import MANIFEST
from testkit.mlflow_server import serve_mlflow
from testkit.postgresql import PostgreSQL
from tests.training.lab import Lab
from training.data import Corpus
from training.lineage import source_digest
from training.outcome import Outcome
from training.tracking import WAITING, Facts, Tracking

pytestmark = pytest.mark.torch

FACTS = Facts(run="r", generation=1, workload="w", params={}, lineage={}, data=("words", "0" * 64))


@contextmanager
def a_server_that(behaviour: str) -> Iterator[str]:
    """An address that refuses connections, answers 500, or accepts and never answers."""
    if behaviour == "refuses":
        with socket.socket() as closed:  # bound and not listening
            closed.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{closed.getsockname()[1]}"
    elif behaviour == "hangs":
        with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
    else:
        with ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as server:
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


class _Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["refuses", "hangs", "fails"])
def test_a_training_ends_with_the_same_bits_whatever_its_tracking_server_does(
    lab: Lab, undisturbed: Lab, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    with a_server_that(behaviour) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        began = time.monotonic()

        outcome = lab.train(tracking_timeout=1, model="words")

        seconds = time.monotonic() - began
    assert outcome is Outcome.DONE
    assert lab.contents() == undisturbed.contents()
    assert seconds < 40, "the training waited for a server that never answers"


@pytest.mark.parametrize("behaviour", ["refuses", "hangs", "fails"])
def test_a_step_never_waits_for_the_tracking_server(behaviour: str) -> None:
    said: list[str] = []
    with a_server_that(behaviour) as url:
        tracking = Tracking(url, FACTS, said.append)
        tracking.start()
        began = time.monotonic()
        for step in range(2 * WAITING):
            tracking.step(step, loss=1.0)
        each = (time.monotonic() - began) / (2 * WAITING)
        tracking.end(Outcome.DONE, None, timeout=0.5)

    assert each < 100e-6, f"{each * 1e6:.0f} µs for each step"
    assert len(tracking._steps) <= WAITING


def test_what_fails_is_said_once_and_names_the_reason() -> None:
    said: list[str] = []
    with a_server_that("refuses") as url:
        tracking = Tracking(url, FACTS, said.append)
        tracking.start()
        tracking.step(1, loss=1.0)
        tracking.end(Outcome.DONE, None, timeout=30)

    assert len(said) == 1
    assert said[0].startswith("tracking: MLflow fails, training goes on: MlflowException: ")


def test_without_an_address_nothing_is_kept_or_started() -> None:
    tracking = Tracking(None, FACTS, print)
    tracking.start()
    tracking.step(1, loss=1.0)
    tracking.end(Outcome.DONE, None, timeout=30)

    assert not tracking._steps
    assert not tracking._thread.is_alive()


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_real_server_has_the_run_its_lineage_and_the_model_after_two_pods(
    lab: Lab, database: str, postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_mlflow(postgresql, database, tmp_path / "artifacts", tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("HOLDFAST_WORKLOAD", "gpt")
        content = a_dataset(tmp_path / "words")
        shared: dict[str, Any] = {"data": tmp_path / "words", "parent": "base:1"}
        assert lab.train(steps=8, **shared) is Outcome.DONE
        assert lab.train(steps=12, model="words", **shared) is Outcome.DONE
        assert lab.train(steps=12, model="words", **shared) is Outcome.DONE, "again, as it is"

        client = server.client()
        experiment = client.get_experiment_by_name("gpt")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        losses = client.get_metric_history(run.info.run_id, "loss")
        (version,) = client.search_model_versions("name = 'words'")
        assert version.source and run.inputs
        there = client.list_logged_model_artifacts(version.source.removeprefix("models:/"))

    newest = lab.volume.bundles()[0].manifest
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in losses] == list(range(1, 13))
    assert run.data.params["batch"] == "8"
    assert run.data.params["steps"] == "8", "those of its first pod"
    assert run.data.tags["holdfast.dataset"] == content
    assert run.data.tags["holdfast.code"] == source_digest()
    assert run.data.tags["holdfast.parent"] == "base:1"
    assert run.data.tags["holdfast.checkpoint"] == newest.digest
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == content[:36]
    assert version.tags["holdfast.checkpoint"] == newest.digest
    assert {MANIFEST} | {file.path for file in newest.files} == {file.path for file in there}


# Lineage


def a_dataset(folder: Path) -> str:
    """A folder as `holdfast get` leaves it; returns the dataset's `content`."""
    source = folder.with_name("source")
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("hold fast " * 400)
    (source / "deep" / "b.txt").write_text("rope and knot " * 300)
    made = commit_directory(source, folder.parent, "made", "dataset", {})
    made.path.rename(folder)
    return made.manifest.content


def test_a_bundle_says_which_dataset_code_and_parent_it_came_from(lab: Lab, tmp_path: Path) -> None:
    content = a_dataset(tmp_path / "words")

    lab.train(data=tmp_path / "words", parent="base:1")

    labels = lab.volume.bundles()[0].manifest.labels
    assert labels["dataset"] == content
    assert labels["code"] == source_digest()
    assert labels["parent"] == "base:1"
    assert "image" not in labels, "what is unknown is left out"


def test_a_folder_that_is_no_dataset_gets_no_such_label(undisturbed: Lab) -> None:
    assert "dataset" not in undisturbed.volume.bundles()[0].manifest.labels


def test_the_manifest_of_a_dataset_is_not_trained_on(tmp_path: Path) -> None:
    a_dataset(tmp_path / "words")
    with_manifest = Corpus(tmp_path / "words", 8)
    (tmp_path / "words" / MANIFEST).unlink()

    assert with_manifest.digest == Corpus(tmp_path / "words", 8).digest


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "a.txt").write_text("other " * 99), "a.txt differs"),
        (lambda folder: (folder / "deep/b.txt").unlink(), "deep/b.txt is missing"),
        (lambda folder: (folder / "new.txt").write_text("more"), "new.txt is not in it"),
        (
            lambda folder: (folder / MANIFEST).write_bytes(
                (folder / MANIFEST).read_bytes().replace(b'"kind":"dataset"', b'"kind":"datasex"')
            ),
            "its digest does not match",
        ),
    ],
)
def test_data_that_are_not_the_dataset_of_their_manifest_are_refused(
    tmp_path: Path, change: object, problem: str
) -> None:
    a_dataset(tmp_path / "words")
    assert callable(change)
    change(tmp_path / "words")

    with pytest.raises(UsageError, match=problem):
        Corpus(tmp_path / "words", 8)

"""What a tracking server holds, asked through MLflow's own client: all of it, to compare."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

#: What was found, by what it is and its name: `("metric", "<run> loss")`.
Contents = dict[tuple[str, str], Any]


def contents(client: MlflowClient) -> Contents:
    """Every experiment, run, parameter, tag, metric, input, artifact, model, version and alias."""
    return {(kind, name): value for kind, name, value in _everything(client)}


def counts(found: Contents) -> Counter[str]:
    """How many there are of each."""
    return Counter(kind for kind, _ in found)


def differences(before: Contents, after: Contents) -> list[str]:
    """What is missing, new or changed."""
    return [
        f"{kind} {name}"
        for kind, name in sorted(before.keys() | after.keys())
        if before.get((kind, name)) != after.get((kind, name))
    ]


def _everything(client: MlflowClient) -> Iterator[tuple[str, str, Any]]:
    experiments = client.search_experiments(view_type=ViewType.ALL)
    ids = [experiment.experiment_id for experiment in experiments]
    for experiment in experiments:
        told = dict(experiment)
        yield "experiment", experiment.name, {**told, "tags": dict(told["tags"])}
    for run in client.search_runs(ids, run_view_type=ViewType.ALL):
        yield from _run(client, run)
    for model in client.search_logged_models(ids):
        yield "logged model", model.model_id, (model.name, str(model.status), dict(model.tags))
        for file in _files(client, model.artifact_location):
            yield "artifact", f"{model.model_id} {file[0]}", file[1]
    for model in client.search_registered_models():
        yield "model", model.name, (model.creation_timestamp, dict(model.tags))
        for alias, version in dict(model.aliases).items():
            yield "alias", f"{model.name}@{alias}", str(version)
    for version in client.search_model_versions():
        about = (version.source, version.run_id, version.status, dict(version.tags))
        yield "model version", f"{version.name} {version.version}", about


def _run(client: MlflowClient, run: Any) -> Iterator[tuple[str, str, Any]]:
    name = run.info.run_id
    info = run.info
    yield "run", name, (info.run_name, info.status, info.start_time, info.end_time, info.user_id)
    for key, value in run.data.params.items():
        yield "parameter", f"{name} {key}", value
    for key, value in run.data.tags.items():
        yield "tag", f"{name} {key}", value
    for key in run.data.metrics:
        for point in client.get_metric_history(name, key):
            yield "metric", f"{name} {key} {point.step} {point.timestamp}", point.value
    for given in run.inputs.dataset_inputs:
        yield "input", f"{name} {given.dataset.name}", (given.dataset.digest, given.dataset.source)
    for path, digest in _files(client, run.info.artifact_uri):
        yield "artifact", f"{name} {path}", digest


def _files(client: MlflowClient, uri: str) -> Iterator[tuple[str, str]]:
    """Each file below, downloaded and hashed."""
    from mlflow.artifacts import download_artifacts, list_artifacts

    if not list_artifacts(artifact_uri=uri, tracking_uri=client.tracking_uri):
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        place = Path(
            download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=client.tracking_uri)
        )
        for path in sorted(place.rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                yield path.relative_to(place).as_posix(), digest

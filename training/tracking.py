"""What a training tells an MLflow server, where `MLFLOW_TRACKING_URI` names one.

The training thread only appends to a bounded queue. One background thread imports MLflow, finds or
makes the run, and sends; whatever fails there is said once and tried again later, and what the
queue cannot hold meanwhile is dropped, the oldest first. So a server that is slow, refuses, or is
gone costs the training nothing but points of a curve.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.bundle import read_bundle
from training.outcome import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: How many steps wait for the server at most: their metrics take about 10 MB.
WAITING = 20_000
#: MLflow takes 1,000 metrics in one request.
_METRICS_AT_ONCE = 1000
#: Seconds between two rounds; after failures twice as long each time, up to the second figure.
_ROUND, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds that a training which was asked to stop waits at most: its pod's grace is for the save.
_STOP_TIMEOUT = 5.0
#: Unless the environment says otherwise: short, and no retries, since the thread retries itself.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_STATUS = {
    Outcome.DONE: "FINISHED",
    Outcome.STOPPED: "SCHEDULED",  # another pod goes on
    Outcome.RETRY: "SCHEDULED",
    Outcome.RECOVER: "SCHEDULED",
    Outcome.REFUSED: "FAILED",
}


@dataclass(frozen=True)
class Facts:
    """What identifies a run to MLflow, and what it was made from."""

    run: str
    generation: int
    workload: str
    params: Mapping[str, Any]
    #: labels of every bundle: dataset, code, image, parent
    lineage: Mapping[str, str]
    #: the name of the data's folder, and the hash of what is read of it
    data: tuple[str, str]
    #: name under which the final bundle becomes a version of a model
    model: str | None = None

    def identity(self) -> dict[str, str]:
        """The tags by which the next pod finds this run again: one for each generation."""
        return {
            "holdfast.workload": self.workload,
            "holdfast.run": self.run,
            "holdfast.generation": str(self.generation),
        }


class Tracking:
    """A run's way to MLflow. Without an address every method does nothing."""

    def __init__(self, uri: str | None, facts: Facts, say: Callable[[str], None]) -> None:
        self._say = say
        self._steps: deque[tuple[str, float, int, int]] = deque()
        self._tags: dict[str, str] = {}
        self._batch = _Batch()
        self._dropped = 0
        self._trouble = ""
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._outcome: Outcome | None = None
        self._final: Path | None = None
        self._server = _Server(uri, facts) if uri else None
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin to send. Call it when the data loaders are there: they are forked, and a fork
        must not copy a thread that is in the middle of an import."""
        if self._server:
            self._thread.start()

    def step(self, step: int, **metrics: float) -> None:
        """The metrics of one step."""
        if self._server is None:
            return
        now = int(time.time() * 1000)
        with self._lock:
            for name, value in metrics.items():
                if len(self._steps) >= WAITING * len(metrics):
                    self._steps.popleft()
                    self._dropped += 1
                self._steps.append((name, value, now, step))

    def tag(self, **tags: str) -> None:
        """Tags `holdfast.<name>`; the last value of each counts."""
        if self._server:
            with self._lock:
                self._tags |= {f"holdfast.{name}": value for name, value in tags.items()}

    def end(self, outcome: Outcome, bundle: Path | None, timeout: float) -> None:
        """Send what is left, and the outcome; register the model if it is done. Waits at most
        `timeout` seconds, less if asked to stop, and gives up at the first failure."""
        if self._server is None or not self._thread.is_alive():
            return
        self._outcome, self._final = outcome, bundle
        self._ending.set()
        self._thread.join(timeout if outcome is Outcome.DONE else min(timeout, _STOP_TIMEOUT))
        if self._thread.is_alive():
            self._say(f"tracking: MLflow has not taken all after {timeout:g} s: not waited for")

    def _run(self) -> None:
        assert self._server is not None
        pause = 0.0
        while True:
            self._ending.wait(pause)
            ending = self._ending.is_set()
            try:
                self._send(self._server)
                if ending:
                    self._server.end(self._outcome, self._final, self._say)
            except ImportError as error:
                self._say(f"tracking: MLflow cannot be imported, so nothing is logged: {error}")
                return
            except Exception as error:  # whatever it is, the training goes on
                self._failed(error)
                pause = min(max(2 * pause, _ROUND), _LONGEST_PAUSE)
            else:
                self._worked()
                pause = _ROUND
            if ending:
                return

    def _send(self, server: "_Server") -> None:
        """Send everything that waits; what fails to go is the first to go next time."""
        server.connect()
        while self._fill():
            server.log(self._batch)
            self._batch = _Batch()

    def _fill(self) -> bool:
        """Move what waits into the batch, unless there is one that failed; whether it has any."""
        with self._lock:
            while self._steps and len(self._batch.metrics) < _METRICS_AT_ONCE:
                self._batch.metrics.append(self._steps.popleft())
            self._batch.tags |= self._tags
            self._tags = {}
        return bool(self._batch.metrics or self._batch.tags)

    def _failed(self, error: Exception) -> None:
        trouble = type(error).__name__
        if trouble != self._trouble:
            reason = (str(error).splitlines() or [""])[0][:200]
            self._say(f"tracking: MLflow fails, training goes on: {trouble}: {reason}")
        self._trouble = trouble

    def _worked(self) -> None:
        if self._trouble:
            lost = f"; {self._dropped:,} metrics were dropped" if self._dropped else ""
            self._say(f"tracking: MLflow answers again{lost}")
        self._trouble, self._dropped = "", 0


@dataclass
class _Batch:
    """One request to the server; each metric with its value, Unix milliseconds and step."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class _Server:
    """The calls, in MLflow's words. Everything raises what MLflow raises."""

    def __init__(self, uri: str, facts: Facts) -> None:
        self.uri, self.facts = uri, facts
        self._client: MlflowClient | None = None
        self._run: str | None = None

    def connect(self) -> None:
        """Import MLflow, then find the run that an earlier pod began, or make it."""
        if self._run is not None:
            return
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = self._client = self._client or MlflowClient(self.uri, self.uri)
        experiment = self._experiment(client)
        tags = self.facts.identity()
        asked = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = client.search_runs([experiment], asked, max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            self._run = found[0].info.run_id
            return
        run, generation = self.facts.run, self.facts.generation
        name = run if generation == 1 else f"{run}-gen-{generation:04d}"
        tags |= {f"holdfast.{key}": value for key, value in self.facts.lineage.items()}
        made = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        self._describe(client, made)
        self._run = made

    def log(self, batch: _Batch) -> None:
        """The same metric twice is one for MLflow, so a lost answer does no harm."""
        from mlflow.entities import Metric, RunTag

        client, run = self._there()
        client.log_batch(
            run,
            metrics=[Metric(*metric) for metric in batch.metrics],
            tags=[RunTag(key, value) for key, value in batch.tags.items()],
        )

    def end(self, outcome: Outcome | None, bundle: Path | None, say: Callable[[str], None]) -> None:
        client, run = self._there()
        if outcome is Outcome.DONE and bundle and self.facts.model:
            version = self._register(client, run, bundle, self.facts.model)
            say(f"tracking: {bundle.name} is version {version} of model '{self.facts.model}'")
        status = _STATUS[outcome or Outcome.RETRY]
        if status == "SCHEDULED":
            client.update_run(run, status=status)
        else:
            client.set_terminated(run, status)

    def _there(self) -> "tuple[MlflowClient, str]":
        assert self._client is not None and self._run is not None
        return self._client, self._run

    def _experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.facts.workload
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return client.create_experiment(name)
        except MlflowException:  # another run was faster
            if found := client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def _describe(self, client: "MlflowClient", run: str) -> None:
        """Parameters, and the data as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        params = [Param(key, str(value)) for key, value in self.facts.params.items()]
        client.log_batch(run, params=params)
        name, read = self.facts.data
        digest = self.facts.lineage.get("dataset", read)  # MLflow keeps 36 characters of it
        source = f'{{"sha256": "{digest}"}}'
        data = Dataset(name=name, digest=digest[:36], source_type="holdfast", source=source)
        tags = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(run, datasets=[DatasetInput(data, tags)])

    def _register(self, client: "MlflowClient", run: str, bundle: Path, model: str) -> str:
        """Upload the bundle as it is, manifest included, and make it the model's next version.

        The same bundle is registered once, however often a pod comes to the end.
        """
        from mlflow.exceptions import MlflowException

        digest = read_bundle(bundle).manifest.digest
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for there in client.search_model_versions(f"name = '{model}' and run_id = '{run}'"):
            if there.tags.get("holdfast.checkpoint") == digest:
                return str(there.version)
        experiment = client.get_run(run).info.experiment_id
        logged = client.create_logged_model(experiment, model, run, model_type="holdfast-bundle")
        client.log_model_artifacts(logged.model_id, str(bundle))
        client.finalize_logged_model(logged.model_id, "READY")
        tags = {f"holdfast.{key}": value for key, value in self.facts.lineage.items()}
        tags |= {"holdfast.bundle": bundle.name, "holdfast.checkpoint": digest}
        source, own = f"models:/{logged.model_id}", logged.model_id
        made = client.create_model_version(model, source, run, tags=tags, model_id=own)
        return str(made.version)

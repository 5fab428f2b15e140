"""Log to a real MLflow server all the time while snapshots are taken; then restore every one.

    python -m tests.pipeline_soak --seconds 600 --snapshots 20

Each snapshot is restored into a database and a directory of its own. It must hold a prefix of what
each client logged: no run without all that was logged before it, no row without its files, and
nothing dangling. Ends with 1 at the first that does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testkit.mlflow_server import MLflowServer, serve_mlflow
from testkit.postgresql import PostgreSQL, serve_postgresql

ROOT = Path(__file__).parents[1]
METRICS = 5
MODEL = "churn"


@dataclass
class Figures:
    """What one soak did; times in seconds."""

    runs: int = 0
    versions: int = 0
    snapshots: list[str] = field(default_factory=list)
    restored_runs: list[int] = field(default_factory=list)
    artifacts: list[int] = field(default_factory=list)
    newer: int = 0
    push_seconds: list[float] = field(default_factory=list)
    pull_seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs and {self.versions} model versions logged;"
            f" {len(self.snapshots)} snapshots of {self.restored_runs[0]} to"
            f" {self.restored_runs[-1]} runs and up to {max(self.artifacts)} artifacts, each"
            f" restored to a consistent prefix, 0 dangling references, {self.newer} artifacts named"
            f" as perhaps newer; a push took {min(self.push_seconds):.1f} to"
            f" {max(self.push_seconds):.1f} s, a restore {min(self.pull_seconds):.1f} to"
            f" {max(self.pull_seconds):.1f} s"
        )


class Logger(threading.Thread):
    """One client, which logs one run after the other until it is told to stop."""

    def __init__(self, server: MLflowServer, name: str) -> None:
        super().__init__(daemon=True)
        self.client, self.name = server.client(), name
        self.stopping = threading.Event()
        self.logged = self.versions = 0
        self.failure: Exception | None = None
        self._experiment = self.client.create_experiment(name)

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self._log(self.logged)
                self.logged += 1
        except Exception as error:
            self.failure = error

    def _log(self, number: int) -> None:
        client = self.client
        run = client.create_run(self._experiment, run_name=f"{self.name}-{number}").info
        client.log_param(run.run_id, "number", str(number))
        for step in range(METRICS):
            client.log_metric(run.run_id, "loss", 1 / (step + 1), step=step)
        for name, text in files(self.name, number).items():
            client.log_text(run.run_id, text, name)
        client.log_text(run.run_id, "rewritten by each run", "state.txt")
        client.log_text(run.run_id, f"rewritten by run {number}", "state.txt")
        client.set_terminated(run.run_id)
        if number % 3 == 0:
            made = client.create_model_version(
                f"{MODEL}-{self.name}",
                f"{run.artifact_uri}/model",
                run.run_id,
                await_creation_for=0,
            )
            client.set_registered_model_alias(made.name, "production", made.version)
            self.versions += 1


def files(name: str, number: int) -> dict[str, str]:
    """What a client logs with its run of this number."""
    return {"model/MLmodel": f"model {number} of {name}", "notes.txt": f"note {number}" * 50}


class Soak:
    """The servers, the clients, and the checks."""

    def __init__(self, server: PostgreSQL, work: Path, seconds: float, snapshots: int) -> None:
        self.server, self.work = server, work
        self.seconds, self.snapshots = seconds, snapshots
        self.artifacts = work / "artifacts"
        self.artifacts.mkdir()
        self.store = f"file://{work}/store/soak"
        self.figures = Figures()

    def run(self, clients: int = 2) -> Figures:
        database = self.server.create()
        with serve_mlflow(self.server, database, self.artifacts, self.work) as mlflow:
            names = [f"client-{number}" for number in range(clients)]
            for name in names:
                mlflow.client().create_registered_model(f"{MODEL}-{name}")
            loggers = [Logger(mlflow, name) for name in names]
            for logger in loggers:
                logger.start()
            began = time.monotonic()
            for number in range(1, self.snapshots + 1):
                wait = began + self.seconds * number / self.snapshots - time.monotonic()
                loggers[0].stopping.wait(max(0.0, wait))
                self._push(database)
            for logger in loggers:
                logger.stopping.set()
                logger.join(60)
                if logger.failure is not None:
                    raise AssertionError(f"{logger.name} could not log") from logger.failure
        self.figures.runs = sum(logger.logged for logger in loggers)
        self.figures.versions = sum(logger.versions for logger in loggers)
        for snapshot in self.figures.snapshots:
            self._restore(snapshot, names)
        return self.figures

    def _push(self, database: str) -> None:
        start = time.monotonic()
        told = self._holdfast("push", database=database, artifacts=self.artifacts)
        self.figures.push_seconds.append(time.monotonic() - start)
        assert told["missing"] == [], told["missing"]
        self.figures.newer += len(told["newer"])
        self.figures.snapshots.append(told["snapshot"])

    def _restore(self, snapshot: str, names: list[str]) -> None:
        place, database = self.work / "restored" / snapshot, self.server.create()
        place.mkdir(parents=True)
        start = time.monotonic()
        self._holdfast("pull", snapshot, database=database, artifacts=place)
        self.figures.pull_seconds.append(time.monotonic() - start)
        found = self._holdfast("check", snapshot, database=database, artifacts=place)
        assert found["ok"], found["problems"]
        assert found["missing"] == []
        self.figures.artifacts.append(found["checked"]["artifact files"])
        runs = sum(self._check_prefix(database, place, name) for name in names)
        self.figures.restored_runs.append(runs)
        self.server.drop(database)

    def _check_prefix(self, database: str, place: Path, name: str) -> int:
        """All of what a client logged, up to some moment; how many runs that are."""
        rows = self.server.query(
            database,
            "SELECT r.name, r.status, r.artifact_uri, (SELECT count(*) FROM metrics m WHERE"
            " m.run_uuid = r.run_uuid) FROM runs r JOIN experiments e USING (experiment_id)"
            f" WHERE e.name = '{name}'",
        )
        found = {int(row[0].rpartition("-")[2]): row[1:] for row in rows}
        assert sorted(found) == list(range(len(found))), f"a run of {name} is missing"
        for number, (status, uri, metrics) in found.items():
            ended = status == "FINISHED"
            assert ended or number == len(found) - 1, f"{name}-{number} lost its end"
            if ended:
                assert metrics == METRICS, f"{name}-{number} lost metrics"
                below = place / uri.removeprefix("mlflow-artifacts:/")
                for path, text in files(name, number).items():
                    assert (below / path).read_text() == text, f"{name}-{number}, {path}"
                assert (below / "state.txt").read_text() == f"rewritten by run {number}"
        versions = self.server.query(
            database, f"SELECT version FROM model_versions WHERE name = '{MODEL}-{name}' ORDER BY 1"
        )
        assert [row[0] for row in versions] == list(range(1, len(versions) + 1))
        ended = sum(status == "FINISHED" for status, _, _ in found.values())
        assert (ended + 2) // 3 - 1 <= len(versions) <= (ended + 2) // 3
        return len(found)

    def _holdfast(self, *words: str, database: str, artifacts: Path) -> Any:
        """Run a verb as its user does; its JSON."""
        environment = {
            **os.environ,
            **self.server.environment(database),
            "HOLDFAST_ARTIFACTS": str(artifacts),
            "HOLDFAST_STORE": self.store,
            "HOLDFAST_OWNER": "team/soak",
        }
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "pipeline", *words, "--output", "json"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{words}: {done.stderr[-3000:]}{done.stdout[-3000:]}")
        return json.loads(done.stdout)


def soak(seconds: float, snapshots: int) -> Figures:
    """Log for so many seconds, take so many snapshots, restore and check each."""
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    with serve_postgresql() as server, tempfile.TemporaryDirectory(prefix="holdfast-soak-") as work:
        return Soak(server, Path(work), seconds, snapshots).run()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--snapshots", type=int, default=20)
    chosen = parser.parse_args()
    print(soak(chosen.seconds, chosen.snapshots))
    return 0


if __name__ == "__main__":
    sys.exit(main())

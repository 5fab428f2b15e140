"""Restore a snapshot of a pipeline."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.output import emit, phase_output, say
from holdfast.cli.progress import progress
from holdfast.cli.verbs.pipeline.options import (
    RUN,
    WORKLOAD,
    Place,
    Run,
    Which,
    Workload,
    chosen,
    open_place,
)
from holdfast.defaults import MEMORY
from holdfast.text import figures, plural


class Difference(StrEnum):
    """What may differ between a snapshot and the place that it is restored to."""

    MLFLOW = "mlflow"
    KEY = "key"


def pull(
    snapshot: Which = "latest",
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            envvar="HOLDFAST_REPLACE",
            help="Replace a database that is not empty, and artifacts with other bytes. What was"
            " there is kept: the tables in another schema, the files in another directory.",
        ),
    ] = False,
    accept: Annotated[
        list[Difference] | None,
        typer.Option(
            "--accept",
            envvar="HOLDFAST_ACCEPT",
            help="Restore although this differs: mlflow (made with a newer MLflow), key (its"
            " secrets need another key). May be given twice.",
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            envvar="HOLDFAST_PATIENCE",
            min=0,
            max=options.LONGEST,
            help="Seconds to wait until nobody else is connected to the database.",
            metavar="SECONDS",
        ),
    ] = 30,
    artifacts: Place = None,
    run: Run = RUN,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: Workload = WORKLOAD,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Restore a snapshot of a pipeline: its artifacts, then its database in one transaction.

    Stop the tracking server first. Nothing changes before versions and keys are compared and every
    byte is verified. Artifacts come first, each whole or not at all; then the database, all of it
    or nothing: a restore that is killed leaves the database as it was, and may be repeated. A
    database in which nothing was ever logged counts as empty.

    Example: holdfast pipeline pull latest --replace --artifacts /mnt/artifacts --store
    s3://bucket/team/prod
    """
    from holdfast.pipeline.database import Database
    from holdfast.pipeline.pull import pull as run_pull

    place = open_place(artifacts, memory, deadline)
    catalog, choice = chosen(snapshot, run, store, owner, workload, memory, deadline)
    database = Database(deadline)
    say(f"restore snapshot {choice.snapshot.id} into {database.name} and {place.url}")
    start = time.monotonic()
    with progress() as bar:
        report = run_pull(
            database,
            place,
            catalog,
            choice.snapshot,
            replace=replace,
            accept=[str(one) for one in accept or ()],
            patience=patience,
            progress=bar,
        )
    seconds = time.monotonic() - start
    for note in report.notes:
        say(f"restored all the same: {note}")
    files = f"{plural(len(report.restored), 'artifact')} ({report.equal} were there)"
    say(f"restored the database and {files}: {figures(report.bytes, seconds)}")
    if report.kept_schema:
        say(f"the tables of before are in schema {report.kept_schema}")
    if report.kept_files:
        say(f"{plural(len(report.aside), 'file')} of before: {place.url}/{report.kept_files}")
    if kanister:
        phase_output(
            snapshot=report.snapshot.id, artifacts=len(report.restored), bytes=report.bytes
        )
    if output is options.Format.JSON:
        emit(
            {
                "snapshot": report.snapshot.id,
                "restored": len(report.restored),
                "equal": report.equal,
                "replaced": report.aside,
                "kept_schema": report.kept_schema,
                "kept_files": report.kept_files,
                "notes": report.notes,
                "bytes": report.bytes,
                "seconds": round(seconds, 3),
            }
        )

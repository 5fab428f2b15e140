"""Compare the live database and artifacts with a snapshot."""

from __future__ import annotations

import time

from holdfast.cli import options
from holdfast.cli.output import say
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
    report,
)
from holdfast.defaults import MEMORY
from holdfast.text import figures, plural


def check(
    snapshot: Which = "latest",
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
    """Compare the live database and artifacts with a snapshot: is all that it holds there?

    Checks every run, model, version and alias of the snapshot's dump against the database, every
    artifact of its list by size and SHA-256, and every reference of the live database. What was
    added since is no problem; what was deleted or changed on purpose is named like what was lost,
    so this is for the time right after a restore. Exit code 1 for any problem that was not known
    when the snapshot was made.

    Example: holdfast pipeline check latest --artifacts /mnt/artifacts --store
    s3://bucket/team/prod
    """
    from holdfast.pipeline import verify as examine
    from holdfast.pipeline.database import Database

    place = open_place(artifacts, memory, deadline)
    catalog, choice = chosen(snapshot, run, store, owner, workload, memory, deadline)
    database = Database(deadline)
    say(f"check database {database.name} and {place.url} against {choice.snapshot.id}")
    start = time.monotonic()
    with progress() as bar:
        found = examine.check(database, place, catalog, choice.snapshot, progress=bar)
    seconds = time.monotonic() - start
    verdict = "all is there" if found.ok else plural(len(found.problems), "problem")
    say(f"snapshot {found.snapshot.id}: {verdict}: {figures(found.bytes, seconds)}")
    report(found, kanister, output)

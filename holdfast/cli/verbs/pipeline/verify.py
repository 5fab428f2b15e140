"""Read a snapshot of a pipeline, and follow every reference of its database."""

from __future__ import annotations

import time

from holdfast.cli import options
from holdfast.cli.output import say
from holdfast.cli.progress import progress
from holdfast.cli.verbs.pipeline.options import (
    RUN,
    WORKLOAD,
    Run,
    Which,
    Workload,
    chosen,
    report,
)
from holdfast.defaults import MEMORY
from holdfast.errors import StoreDenied, StoreUnreachable
from holdfast.text import figures, plural


def verify(
    snapshot: Which = "latest",
    run: Run = RUN,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: Workload = WORKLOAD,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Read a snapshot of a pipeline in the store, and follow every reference of its database.

    Needs no database and no server: what the dump mentions is read from the dump. Checks every byte
    of the dump, the list and the artifacts; that every model, version, alias and dataset which the
    dump mentions is there; and that the datasets, models and checkpoints of the snapshot exist.
    Exit code 1 for any problem that was not known when the snapshot was made.

    Example: holdfast pipeline verify latest --store s3://bucket/team/prod
    """
    from holdfast.pipeline import verify as examine

    catalog, choice = chosen(snapshot, run, store, owner, workload, memory, deadline)
    say(f"verify snapshot {choice.snapshot.id} in {catalog.store.url}")
    start = time.monotonic()
    with progress() as bar:
        found = examine.verify(catalog, choice.snapshot, progress=bar)
        try:
            examine.record(catalog, found)
        except (StoreDenied, StoreUnreachable) as error:  # a reader may verify, too
            bar.note(f"the result is not recorded: {error}")
    seconds = time.monotonic() - start
    verdict = "is good" if found.ok else f"has {plural(len(found.problems), 'problem')}"
    say(f"snapshot {found.snapshot.id} {verdict}: {figures(found.bytes, seconds)}")
    report(found, kanister, output)

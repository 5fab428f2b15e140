"""Copy the tracking database and its artifacts to the store, as one snapshot."""

from __future__ import annotations

import time
from datetime import timedelta

from holdfast.cli import options
from holdfast.cli.context import open_catalog
from holdfast.cli.output import emit, phase_output, say
from holdfast.cli.progress import progress
from holdfast.cli.verbs.pipeline.options import RUN, WORKLOAD, Place, Run, Workload, open_place
from holdfast.defaults import GRACE, MEMORY
from holdfast.text import figures, plural
from holdfast.text import size as as_size


def push(
    artifacts: Place = None,
    run: Run = RUN,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: Workload = WORKLOAD,
    grace: options.Grace = int(GRACE.total_seconds()),
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Copy the tracking database and its artifacts to the store, as one snapshot.

    The server can go on meanwhile. The database is dumped first, then the artifacts are copied that
    are new since the last snapshot, so that no row of the dump lacks its files. An artifact that
    was rewritten meanwhile may be newer than the dump, and is named. The snapshot also names every
    dataset and model of the store, and the newest checkpoints. The database is the one of PGHOST,
    PGUSER, PGPASSWORD, PGDATABASE and libpq's other variables.

    Example: holdfast pipeline push --artifacts /mnt/artifacts --store s3://bucket/team/prod
    --owner team/prod
    """
    from holdfast.pipeline.database import Database
    from holdfast.pipeline.push import push as run_push

    place = open_place(artifacts, memory, deadline)
    catalog = open_catalog(store, owner, memory, deadline)
    database = Database(deadline)
    say(f"push database {database.name} and artifacts {place.url} to {catalog.store.url}")
    start = time.monotonic()
    with progress() as bar:
        report = run_push(
            database,
            place,
            catalog,
            run,
            workload=workload,
            grace=timedelta(seconds=grace),
            progress=bar,
        )
    seconds = time.monotonic() - start
    listed, snapshot = report.artifacts, report.snapshot
    copied = f"copied {report.copied_files} of {plural(len(listed.entries), 'artifact')}"
    moved = figures(report.copied_bytes + report.dump, seconds)
    say(f"dump {as_size(report.dump)}, {copied}: {moved}")
    for path in report.newer[:20]:
        say(f"newer than the database, perhaps: artifact {path}")
    say(f"snapshot {snapshot.id}")
    if kanister:
        phase_output(
            snapshot=snapshot.id,
            artifacts=len(listed.entries),
            bytes=report.copied_bytes + report.dump,
            missing=len(listed.missing),
            newer=len(report.newer),
        )
    if output is options.Format.JSON:
        emit(
            {
                "snapshot": snapshot.id,
                "labels": dict(snapshot.labels),
                "counts": listed.counts,
                "dump_bytes": report.dump,
                "artifacts": len(listed.entries),
                "artifact_bytes": listed.size,
                "copied_files": report.copied_files,
                "copied_bytes": report.copied_bytes,
                "newer": report.newer,
                "missing": [{"what": w, "reason": r} for w, r in sorted(listed.missing.items())],
                "skipped": [{"path": p, "reason": r} for p, r in sorted(listed.skipped.items())],
                "bundles": len(snapshot.bundles),
                "seconds": round(seconds, 3),
            }
        )

"""Copy bundles from a volume to a store."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog, open_volume
from holdfast.cli.output import emit, phase_output, say
from holdfast.cli.progress import progress
from holdfast.defaults import GRACE, KIND, MEMORY, Select
from holdfast.text import figures, plural


def push(
    select: Annotated[
        Select,
        typer.Option(
            "--select",
            envvar="HOLDFAST_PUSH",
            help="newest: the newest bundle. all: every bundle that the store never had.",
        ),
    ] = Select.NEWEST,
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    grace: options.Grace = int(GRACE.total_seconds()),
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Copy bundles from the volume to the store, and write a snapshot.

    Training can go on meanwhile, because bundles never change. Every byte is hashed while it is
    read, and a bundle that differs from its manifest is refused. The snapshot is written last: a
    push that is killed leaves no incomplete snapshot, and the next push reuses what was copied.

    Example: holdfast push --volume /mnt/checkpoints --run gpt --workload gpt
    --store s3://bucket/team/prod --owner team/prod
    """
    from holdfast.copies.push import push as run_push

    source = open_volume(volume, run, kind)
    workload = options.required(workload, "workload")
    catalog = open_catalog(store, owner, memory, deadline)
    what = "every new bundle" if select is Select.ALL else "the newest bundle"
    say(f"push {what} of {source.run_path} to {catalog.store.url}")
    start = time.monotonic()
    with progress() as bar:
        report = run_push(
            source,
            catalog,
            workload,
            select=select,
            grace=timedelta(seconds=grace),
            progress=bar,
        )
    seconds = time.monotonic() - start
    if report.created:
        copied = plural(report.copied_files, "file")
        say(f"{report.message}: copied {copied}, {figures(report.copied_bytes, seconds)}")
    else:
        say(f"{report.message} ({seconds:.2f} s)")
    if report.snapshot:
        say(f"snapshot {report.snapshot}")
    names = [ref.name for ref in report.bundles]
    if kanister:
        phase_output(snapshot=report.snapshot, bundles=" ".join(names), bytes=report.copied_bytes)
    if output is options.Format.JSON:
        emit(
            {
                "snapshot": report.snapshot,
                "created": list(report.created),
                "bundles": names,
                "copied_files": report.copied_files,
                "copied_bytes": report.copied_bytes,
                "skipped": [{"bundle": s.name, "reason": s.reason} for s in report.skipped],
                "seconds": round(seconds, 3),
            }
        )

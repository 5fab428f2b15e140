"""Delete what a retention policy does not keep."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog, open_volume
from holdfast.cli.output import dry_note, emit, say, table
from holdfast.cli.progress import progress
from holdfast.defaults import GRACE, KEEP, KIND, MEMORY
from holdfast.errors import HoldfastError
from holdfast.retention import Policy
from holdfast.text import plural, size

if TYPE_CHECKING:
    from holdfast.copies.prune import PruneReport

_DEFAULT = Policy()


def prune(
    keep_last: options.KeepLast = _DEFAULT.keep_last,
    hourly: options.Hourly = _DEFAULT.hourly,
    daily: options.Daily = _DEFAULT.daily,
    weekly: options.Weekly = _DEFAULT.weekly,
    monthly: options.Monthly = _DEFAULT.monthly,
    grace: options.Grace = int(GRACE.total_seconds()),
    side: Annotated[
        options.Side,
        typer.Option(
            "--side",
            envvar="HOLDFAST_SIDE",
            help="store (and auto): snapshots, by the policy. volume: bundles, all but the newest"
            " --keep; only while nothing trains on it.",
        ),
    ] = options.Side.AUTO,
    keep: options.Keep = KEEP,
    dry_run: options.DryRun = False,
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Delete the snapshots that the policy does not keep, then the data that none names any more.

    A snapshot is kept if any rule keeps it. The newest, the last that verified, pinned ones, and
    those younger than --grace are always kept. Data are deleted in two steps, a grace period apart,
    so that a concurrent push is safe.

    Example: holdfast prune --keep-last 7 --daily 14 --dry-run
    """
    if side is options.Side.VOLUME:
        _prune_volume(volume, run, kind, keep, dry_run, output)
        return
    from holdfast.copies.prune import prune as run_prune

    name = options.required(workload, "workload")
    catalog = open_catalog(store, owner, memory, deadline)
    policy = Policy(keep_last, hourly, daily, weekly, monthly)
    rules = ", ".join(f"{rule} {count}" for rule, count in asdict(policy).items())
    say(f"prune workload {name} in {catalog.store.url}: {rules}{dry_note(dry_run)}")
    start = time.monotonic()
    with progress() as bar:
        report = run_prune(
            catalog, name, policy, grace=timedelta(seconds=grace), dry_run=dry_run, progress=bar
        )
    for problem in report.problems:
        say(f"problem: {problem}")
    if output is options.Format.JSON:
        emit(asdict(report))
    else:
        _report(report)
    did = "would drop" if dry_run else "dropped"
    say(
        f"{did} {plural(len(report.dropped), 'snapshot')}, kept {len(report.kept)};"
        f" {'would delete' if dry_run else 'deleted'} {plural(len(report.deleted), 'bundle')}"
        f" ({size(report.deleted_bytes)}), marked {len(report.tombstoned)},"
        f" {len(report.waiting)} wait for the grace period ({time.monotonic() - start:.1f} s)"
    )
    if report.refused:
        raise HoldfastError(
            f"could not delete {plural(len(report.refused), 'object')}, such as"
            f" '{report.refused[0]}': see above for the reason; the next prune tries again"
        )


def _report(report: PruneReport) -> None:
    rows = [("keep", key, ", ".join(why)) for key, why in report.kept.items()]
    rows += [("drop", key, "no rule keeps it") for key in report.dropped]
    if rows:
        table(("", "snapshot", "~why"), sorted(rows, key=lambda row: row[1], reverse=True))


def _prune_volume(
    volume: Path | None,
    run: str | None,
    kind: str,
    keep: int,
    dry_run: bool,
    output: options.Format,
) -> None:
    target = open_volume(volume, run, kind)
    say(f"keep the newest {keep} bundles of run {target.run} on {target.root}{dry_note(dry_run)}")
    removed = target.keep(keep, dry_run=dry_run)
    did = "would remove" if dry_run else "removed"
    names = ", ".join(f"{path.parent.name}/{path.name}" for path in removed)
    say(f"{did} {plural(len(removed), 'bundle')}" + (f": {names}" if names else ""))
    if output is options.Format.JSON:
        emit({"dry_run": dry_run, "removed": [str(path) for path in removed]})

"""Copy a snapshot's bundles from a store to a volume."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog, open_snapshot, open_volume
from holdfast.cli.output import emit, say
from holdfast.cli.progress import progress
from holdfast.defaults import KIND, MEMORY
from holdfast.errors import UsageError
from holdfast.recovery.recover import Decision, Start
from holdfast.text import figures


def pull(
    if_empty: Annotated[
        bool,
        typer.Option(
            "--if-empty",
            envvar="HOLDFAST_IF_EMPTY",
            help="Pull only if the volume has no valid bundle of the run: what a pod does first.",
        ),
    ] = False,
    start: Annotated[
        Start,
        typer.Option(
            "--start",
            envvar="HOLDFAST_START",
            help="With --if-empty: what to do when there is no state anywhere. auto and fresh start"
            " from step 0; require stops.",
        ),
    ] = Start.AUTO,
    decision_file: Annotated[
        Path | None,
        typer.Option(
            "--decision-file",
            envvar="HOLDFAST_DECISION",
            help="With --if-empty: write the decision there as JSON, for the trainer.",
            metavar="FILE",
        ),
    ] = None,
    snapshot: options.Snapshot = "latest",
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            envvar="HOLDFAST_INTO",
            help="Pull into this directory instead of the volume's present generation.",
            metavar="DIR",
        ),
    ] = None,
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
    """Copy a snapshot's bundles from the store to the volume, and verify every byte.

    A bundle gets its name only when all of it is copied and verified. With --if-empty the newest
    bundle on the volume is verified first, and the snapshot is pulled only if there is no valid
    one; several pods may do so at once. Exit codes with --if-empty: 0 start training; 1 failed, try
    again (the store does not answer); 76 do not retry: only bad bundles and nothing in the store,
    or --start require and no state anywhere.

    Example: holdfast pull --if-empty --volume /mnt/checkpoints --run gpt --workload gpt
    --store s3://bucket/team/prod
    """
    if if_empty:
        if into is not None:
            raise UsageError(f"--into {into} and --if-empty exclude each other: give one of them")
        _pull_if_empty(
            volume,
            run,
            kind,
            store,
            owner,
            workload,
            memory,
            deadline,
            start,
            decision_file,
            output,
        )
        return
    from holdfast.copies.pull import pull as run_pull
    from holdfast.copies.remembered import remember
    from holdfast.volume import Volume

    if into is None and volume is None:
        raise UsageError("no destination: give --volume or --into")
    place = volume if into is None else None
    into = into and into.resolve()
    catalog, choice = open_snapshot(snapshot, run, store, owner, workload, memory, deadline, place)
    chosen = choice.snapshot
    target = None if place is None else Volume(place, chosen.run, kind)
    if target is not None:
        into = target.generation_path(target.present() or chosen.generation)
    assert into is not None
    say(f"pull snapshot {chosen.id} into {into}")
    began = time.monotonic()
    with progress() as bar:
        pulled = run_pull(chosen, catalog, into, progress=bar)
    if target is not None:
        remember(target, catalog, chosen)
    seconds = time.monotonic() - began
    names = ", ".join(bundle.name for bundle in pulled)
    copied = sum(bundle.manifest.size for bundle in pulled)
    say(f"pulled {names}: {figures(copied, seconds)}")
    if output is options.Format.JSON:
        emit(
            {
                "snapshot": chosen.id,
                "passed_over": [asdict(one) for one in choice.passed_over],
                "bundles": [
                    {"bundle": bundle.name, "path": str(bundle.path.absolute())}
                    for bundle in pulled
                ],
                "bytes": copied,
                "seconds": round(seconds, 3),
            }
        )


def _pull_if_empty(
    volume: Path | None,
    run: str | None,
    kind: str,
    store: str | None,
    owner: str | None,
    workload: str | None,
    memory: int,
    deadline: float | None,
    start: Start,
    decision_file: Path | None,
    output: options.Format,
) -> None:
    from holdfast.recovery.refill import pull_if_empty

    if decision_file is not None:
        decision_file.unlink(missing_ok=True)  # of an earlier try
    target = open_volume(volume, options.required(run, "run"), kind)
    workload = options.required(workload, "workload")
    catalog = open_catalog(store, owner, memory, deadline, check=False) if store else None
    say(f"recover run {target.run} on {target.root}, start {start}, store {store or '-'}")
    began = time.monotonic()
    with progress() as bar:
        decision = pull_if_empty(target, catalog, workload, start, progress=bar)
    seconds = time.monotonic() - began
    place = f"{decision.bundle} of generation {decision.generation}"
    what = place if decision.bundle else "step 0"
    say(f"{decision.decision}: go on from {what} ({decision.reason}; {seconds:.1f} s)")
    for one in decision.passed_over:
        say(str(one))
    document = _decision(decision)
    if decision_file is not None:
        import json

        from holdfast.durable import write_durably

        write_durably(decision_file, json.dumps(document).encode() + b"\n")
    if output is options.Format.JSON:
        emit(document)


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "decision": str(decision.decision),
        "bundle": decision.bundle,
        "generation": decision.generation,
        "reason": decision.reason,
        "passed_over": [asdict(one) for one in decision.passed_over],
    }

"""Bring a snapshot beside the present generation."""

from __future__ import annotations

import time
from dataclasses import asdict

from holdfast.cli import options
from holdfast.cli.context import choose_snapshot, open_catalog, open_volume
from holdfast.cli.output import emit, phase_output, say
from holdfast.cli.progress import progress
from holdfast.defaults import KIND, MEMORY
from holdfast.text import figures


def stage(
    snapshot: options.Snapshot = "latest",
    volume: options.Volume = None,
    run: options.Run = None,
    kind: options.Kind = KIND,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    kanister: options.Kanister = False,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Pull a snapshot into a hidden directory of the volume, verified, while training goes on.

    The first half of a restore: nothing changes until `holdfast switch`. An earlier stage that was
    never switched to is removed. Fails before it copies if the volume has too little free space.

    Example: holdfast stage --snapshot before=2026-05-01T12:00:00Z
    """
    from holdfast.recovery.restore import stage as run_stage

    target = open_volume(volume, run, kind)
    catalog = open_catalog(store, owner, memory, deadline)
    name = options.required(workload, "workload")
    choice = choose_snapshot(catalog, name, target.run, snapshot, volume)
    chosen = choice.snapshot
    say(f"stage snapshot {chosen.id} on {target.run_path}")
    start = time.monotonic()
    with progress() as bar:
        staged = run_stage(target, catalog, chosen, progress=bar)
    seconds = time.monotonic() - start
    say(
        f"staged {', '.join(staged.bundles)}: {figures(staged.size, seconds)};"
        f" `holdfast switch {staged.id}` makes it generation {staged.generation}"
    )
    if kanister:
        phase_output(stage=staged.id, generation=staged.generation, snapshot=chosen.id)
    if output is options.Format.JSON:
        emit(
            {
                "stage": staged.id,
                "path": str(staged.path.absolute()),
                "snapshot": chosen.id,
                "passed_over": [asdict(one) for one in choice.passed_over],
                "generation": staged.generation,
                "bundles": list(staged.bundles),
                "bytes": staged.size,
                "seconds": round(seconds, 3),
            }
        )

"""Keep a snapshot whatever the policy says."""

from __future__ import annotations

from holdfast.cli import options
from holdfast.cli.context import (
    means_snapshot,
    open_snapshot,
    open_volume,
)
from holdfast.cli.output import emit, say
from holdfast.defaults import MEMORY


def pin(
    target: options.Target,
    volume: options.Volume = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Protect a bundle on the volume, or a snapshot in the store, from retention.

    Example: holdfast pin step-00000100
    """
    if means_snapshot(target, volume, run, store):
        catalog, choice = open_snapshot(target, run, store, owner, workload, memory, deadline)
        snapshot = choice.snapshot
        catalog.pin(snapshot.workload, snapshot.id)
        document = {"snapshot": snapshot.id, "pinned": True}
        say(f"pinned snapshot {snapshot.id}: kept until `holdfast unpin {snapshot.id}`")
    else:
        open_volume(volume, run).pin(target)
        document = {"bundle": target, "pinned": True}
        say(f"pinned bundle {target}: kept until `holdfast unpin {target}`")
    if output is options.Format.JSON:
        emit(document)

"""Keep a snapshot whatever the policy says."""

from __future__ import annotations

from holdfast.cli import options
from holdfast.cli.context import (
    is_snapshot,
    open_snapshot,
    open_volume,
)
from holdfast.cli.output import say
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
) -> None:
    """Protect a bundle on the volume, or a snapshot in the store, from retention.

    Example: holdfast pin step-00000100
    """
    if is_snapshot(target):
        catalog, choice = open_snapshot(target, run, store, owner, workload, memory, deadline)
        snapshot = choice.snapshot
        catalog.pin(snapshot.workload, snapshot.id)
        say(f"pinned snapshot {snapshot.id}: kept until `holdfast unpin {snapshot.id}`")
    else:
        open_volume(volume, run).pin(target)
        say(f"pinned bundle {target}: kept until `holdfast unpin {target}`")

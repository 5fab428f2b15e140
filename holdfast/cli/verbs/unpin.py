"""Let the policy decide over a snapshot again."""

from __future__ import annotations

from holdfast.cli import options
from holdfast.cli.context import (
    means_snapshot,
    open_snapshot,
    open_volume,
)
from holdfast.cli.output import emit, say
from holdfast.defaults import MEMORY


def unpin(
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
    """Let retention decide again about a bundle or a snapshot.

    Example: holdfast unpin step-00000100
    """
    if means_snapshot(target, volume, run, store):
        catalog, choice = open_snapshot(target, run, store, owner, workload, memory, deadline)
        snapshot = choice.snapshot
        catalog.unpin(snapshot.workload, snapshot.id)
        document = {"snapshot": snapshot.id, "pinned": False}
        say(f"unpinned snapshot {snapshot.id}")
    else:
        open_volume(volume, run).unpin(target)
        document = {"bundle": target, "pinned": False}
        say(f"unpinned bundle {target}")
    if output is options.Format.JSON:
        emit(document)

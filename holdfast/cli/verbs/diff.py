"""Show what differs between two versions or snapshots."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import choose_snapshot, is_snapshot, open_catalog
from holdfast.cli.output import emit, say, table
from holdfast.cli.progress import progress
from holdfast.defaults import MEMORY
from holdfast.text import plural, size

if TYPE_CHECKING:
    from holdfast.assets.diff import Difference, Side
    from holdfast.progress import Progress
    from holdfast.store.snapshot import Catalog

_HELP = "NAME:VERSION or NAME@ALIAS; or, with --workload, a snapshot's ID, latest or before=TIME."


def diff(
    before: Annotated[str, typer.Argument(envvar="HOLDFAST_BEFORE", help=_HELP, metavar="A")],
    after: Annotated[str, typer.Argument(envvar="HOLDFAST_AFTER", help=_HELP, metavar="B")],
    kind: options.AssetKind = None,
    run: options.Run = None,
    store: options.Store = None,
    owner: options.Owner = None,
    workload: options.Workload = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Show which files were added, removed and changed from A to B, and which labels differ.

    Only manifests are read. Ends with 0 whether or not they differ.

    Example: holdfast diff reviews:2026-07 reviews:2026-08
    """
    from holdfast.assets.diff import diff as compare

    catalog = open_catalog(store, owner, memory, deadline)
    with progress() as bar:
        first, second = (_side(catalog, text, kind, run, workload, bar) for text in (before, after))
    found = compare(first, second)
    if output is options.Format.JSON:
        emit({"before": first.title, "after": second.title, **asdict(found)})
    else:
        _report(found)
    say(
        f"from {first.title} to {second.title}: {plural(len(found.added), 'file')} added"
        f" ({size(sum(found.added.values()))}), {len(found.removed)} removed"
        f" ({size(sum(found.removed.values()))}), {len(found.changed)} changed,"
        f" {found.unchanged} unchanged"
    )


def _side(
    catalog: Catalog,
    text: str,
    kind: str | None,
    run: str | None,
    workload: str | None,
    bar: Progress,
) -> Side:
    from holdfast.assets.diff import side_of
    from holdfast.assets.versions import resolve

    if is_snapshot(text):
        name = options.required(workload, "workload")
        snapshot = choose_snapshot(catalog, name, run, text).snapshot
        return side_of(catalog, snapshot, snapshot.id)
    found = resolve(catalog, text, kind, progress=bar)
    return side_of(catalog, found.snapshot, str(found))


def _report(found: Difference) -> None:
    rows = [("added", "-", size(count), path) for path, count in found.added.items()]
    rows += [("removed", size(count), "-", path) for path, count in found.removed.items()]
    rows += [("changed", size(old), size(new), path) for path, (old, new) in found.changed.items()]
    rows += [
        ("label", "-" if old is None else old, "-" if new is None else new, key)
        for key, (old, new) in found.labels.items()
    ]
    if rows:
        table(("", ">before", ">after", "file or label"), rows)

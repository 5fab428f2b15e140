"""What the verbs of `holdfast pipeline` share: their options, and the objects behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import complete, options
from holdfast.cli.context import choose_snapshot, open_catalog
from holdfast.cli.output import emit, phase_output, result, say, table
from holdfast.errors import ExitCode
from holdfast.text import counted

if TYPE_CHECKING:
    from holdfast.pipeline.artifacts import Artifacts
    from holdfast.pipeline.verify import Examination
    from holdfast.store.snapshot import Catalog, Choice

#: the workload and the run of these snapshots, where no others are named
WORKLOAD, RUN = "pipeline", "tracking"
_SHOWN, _IN_AN_ERROR = 50, 3

Place = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        envvar="HOLDFAST_ARTIFACTS",
        help="Where the tracking server keeps its artifacts: a directory or s3://bucket/prefix.",
        metavar="DIR|URL",
        rich_help_panel="Where",
    ),
]
Run = Annotated[
    str,
    typer.Option(
        "--run",
        envvar="HOLDFAST_RUN",
        help="Name of the tracking server: each has its own snapshots.",
        metavar="NAME",
        rich_help_panel="Where",
    ),
]
Workload = Annotated[
    str,
    typer.Option(
        "--workload",
        envvar="HOLDFAST_WORKLOAD",
        help="Workload of the store that holds the snapshots.",
        metavar="NAME",
        rich_help_panel="Where",
    ),
]
Which = Annotated[
    str,
    typer.Argument(
        envvar="HOLDFAST_SNAPSHOT",
        help="A snapshot's ID or its beginning, latest, or before=TIME.",
        metavar="[ID|latest|before=TIME]",
        autocompletion=complete.snapshots,
    ),
]


def open_place(place: str | None, memory: int, deadline: float | None) -> Artifacts:
    """The artifacts that --artifacts names."""
    from holdfast.pipeline.artifacts import open_artifacts

    return open_artifacts(options.required(place, "artifacts"), memory=memory, deadline=deadline)


def chosen(
    which: str,
    run: str,
    store: str | None,
    owner: str | None,
    workload: str,
    memory: int,
    deadline: float | None,
) -> tuple[Catalog, Choice]:
    """The snapshot that was asked for, and the catalogue that has it."""
    catalog = open_catalog(store, owner, memory, deadline)
    return catalog, choose_snapshot(catalog, workload, run, which)


def report(found: Examination, kanister: bool, output: options.Output) -> None:
    """Print what an examination found, in the way that was asked for; exit 1 if it is not good."""
    if kanister:
        # Of a failed phase Kanister shows the last lines of the log.
        for what, reason in sorted(found.problems.items())[:_IN_AN_ERROR]:
            say(f"problem: {what} {reason}".rstrip())
        phase_output(
            snapshot=found.snapshot.id,
            ok=str(found.ok).lower(),
            problems=len(found.problems),
            checked=", ".join(counted(count, what) for what, count in found.counts.items()),
        )
    if output is options.Format.JSON:
        emit(_document(found))
    elif not kanister:
        _show(found)
    if not found.ok:
        raise typer.Exit(ExitCode.FAILED)


def _show(found: Examination) -> None:
    """What was checked as a table, and each problem by name."""
    table(["checked", ">number"], [(what, f"{count:,}") for what, count in found.counts.items()])
    for title, named in (("problem", found.problems), ("missing since the backup", found.missing)):
        for what, reason in sorted(named.items())[:_SHOWN]:
            result(f"{title}: {what} {reason}".rstrip())
        if len(named) > _SHOWN:
            result(f"… and {len(named) - _SHOWN} more: see --output json")
    for path in found.newer[:_SHOWN]:
        result(f"newer than the database, perhaps: artifact {path}")


def _document(found: Examination) -> Mapping[str, Any]:
    """The same for scripts."""
    return {
        "snapshot": found.snapshot.id,
        "ok": found.ok,
        "checked": found.counts,
        "problems": [{"what": what, "reason": reason} for what, reason in found.problems.items()],
        "missing": [{"what": what, "reason": reason} for what, reason in found.missing.items()],
        "newer": found.newer,
        "bytes": found.bytes,
    }

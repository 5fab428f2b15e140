"""Let an alias mean a version."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog
from holdfast.cli.output import emit, say
from holdfast.cli.progress import progress
from holdfast.defaults import MEMORY
from holdfast.text import when


def promote(
    name: Annotated[
        str,
        typer.Argument(
            envvar="HOLDFAST_NAME", help="The name of the dataset or model.", metavar="NAME"
        ),
    ],
    version: Annotated[
        str,
        typer.Argument(
            envvar="HOLDFAST_VERSION", help="The version that it is to mean.", metavar="VERSION"
        ),
    ],
    alias: Annotated[
        str | None,
        typer.Option(
            "--alias",
            envvar="HOLDFAST_ALIAS",
            help="The alias, such as production: get it by NAME@ALIAS.",
            metavar="ALIAS",
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            envvar="HOLDFAST_AGAIN",
            help="Also if the alias means this version already: applications that were restored to"
            " another one go back to it when their next pod starts.",
        ),
    ] = False,
    kind: options.AssetKind = None,
    store: options.Store = None,
    owner: options.Owner = None,
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Let an alias, such as production, mean this version from now on.

    A record is appended, nothing is replaced: `holdfast show` prints the history. To go back,
    promote the version before. A version that an alias means is not deleted by mistake.

    Example: holdfast promote churn 3 --alias production
    """
    from holdfast.assets.promote import promote as run_promote
    from holdfast.assets.versions import check_version, resolve

    alias = options.required(alias, "alias")
    catalog = open_catalog(store, owner, memory, deadline)
    with progress() as bar:
        found = resolve(catalog, f"{name}:{check_version(version)}", kind, progress=bar)
        say(f"promote {found.kind} {found} to {name}@{alias} in {catalog.store.url}")
        made, before = run_promote(catalog, found, alias, again=again)
    if made == before:
        say(
            f"nothing new: {name}@{alias} is version {made.version} since {when(made.created)}"
            " (--again brings restored applications back to it)"
        )
    else:
        was = f", before it {before.version}" if before else ""
        say(f"{name}@{alias} is version {made.version} now{was}")
    if output is options.Format.JSON:
        emit(
            {
                "kind": found.kind,
                "name": name,
                "alias": alias,
                "version": made.version,
                "before": before.version if before else None,
                "changed": made != before,
                "sequence": made.sequence,
                "snapshot": made.snapshot,
                "content": made.content,
                "created": when(made.created),
            }
        )

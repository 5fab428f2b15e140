"""Take over the store of a stack that is gone."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog
from holdfast.cli.output import emit, say
from holdfast.defaults import MEMORY


def adopt(
    previous: Annotated[
        str,
        typer.Argument(metavar="PROJECT/STACK", help="The present owner, as the refusal names it."),
    ],
    store: options.Store = None,
    owner: options.Owner = None,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Take over the store of a stack that is gone for good, under the name --owner.

    From then on the old name is refused, and the new one may pull, list, restore and push. Bundles
    and snapshots do not change. No other verb changes the owner.

    Example: holdfast adopt team/lost --store s3://bucket/team/lost --owner team/prod
    """
    owner = options.required(owner, "owner")
    catalog = open_catalog(store, owner, MEMORY, deadline, check=False)
    say(f"take over {catalog.store.url} from {previous} for {owner}")
    catalog.adopt(previous)
    say(f"{catalog.store.url} belongs to {owner}; {previous} is refused from now on")
    if output is options.Format.JSON:
        emit({"store": catalog.store.url, "owner": owner, "previous": previous})

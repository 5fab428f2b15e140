"""Make a version of a dataset or model from a folder."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options
from holdfast.cli.context import open_catalog
from holdfast.cli.output import emit, say
from holdfast.cli.progress import progress
from holdfast.defaults import GRACE, MEMORY
from holdfast.text import figures, plural, size


def add(
    kind: Annotated[
        str,
        typer.Argument(envvar="HOLDFAST_ASSET", help="dataset or model.", metavar="dataset|model"),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            envvar="HOLDFAST_FOLDER",
            help="The folder with the files; or a bundle, such as a checkpoint, whose labels become"
            " the version's lineage.",
            exists=True,
            file_okay=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", envvar="HOLDFAST_NAME", help="The name of the dataset or model."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            envvar="HOLDFAST_VERSION",
            help="The version, such as 3 or 2026-08. One that exists never changes.",
        ),
    ] = None,
    label: options.Label = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            envvar="HOLDFAST_DATASET",
            help="The dataset that this was made from, as lineage.",
            metavar="NAME[:VERSION|@ALIAS]",
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent",
            envvar="HOLDFAST_PARENT_MODEL",
            help="The model that this was made from, as lineage.",
            metavar="NAME[:VERSION|@ALIAS]",
        ),
    ] = None,
    rehash: Annotated[
        bool,
        typer.Option(
            "--rehash",
            envvar="HOLDFAST_REHASH",
            help="Read every file, also those that look unchanged since they were last hashed.",
        ),
    ] = False,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy",
            envvar="HOLDFAST_COPY",
            help="Copy the files also where a checkpoint in the store has them: for readers who may"
            " read datasets and models only.",
        ),
    ] = False,
    store: options.Store = None,
    owner: options.Owner = None,
    grace: options.Grace = int(GRACE.total_seconds()),
    memory: options.Memory = MEMORY,
    deadline: options.Deadline = None,
    output: options.Output = options.Format.TABLE,
) -> None:
    """Add a folder to the store as a version of a dataset or model.

    Equal content is stored once, whatever names and versions it has, also if it is a checkpoint in
    the store. The same again changes nothing; a version that exists with other content is refused,
    and so is a folder that changes meanwhile. Files that have not changed since the last time are
    not read again.

    Example: holdfast add dataset ./reviews --name reviews --version 2026-08
    """
    from holdfast.assets.add import add as run_add
    from holdfast.assets.lineage import named

    name, version = options.required(name, "name"), options.required(version, "version")
    labels = options.labels(label or [])
    catalog = open_catalog(store, owner, memory, deadline)
    say(f"add {kind} {name}:{version} from {folder} to {catalog.store.url}")
    start = time.monotonic()
    with progress() as bar:
        labels |= named(catalog, dataset=dataset, parent=parent, progress=bar)
        added = run_add(
            catalog,
            kind,
            folder,
            name,
            version,
            labels=labels,
            rehash=rehash,
            copy=copy,
            grace=timedelta(seconds=grace),
            progress=bar,
        )
    seconds = time.monotonic() - start
    ref = added.version.ref
    content = f"{plural(added.files, 'file')}, {size(ref.size)}"
    if not added.created:
        say(f"nothing new: {kind} {added.version} has this content already ({seconds:.2f} s)")
    elif added.copied_files:
        copied = f"copied {plural(added.copied_files, 'file')}"
        say(
            f"added {kind} {added.version} ({content}): {copied},"
            f" {figures(added.copied_bytes, seconds)}"
        )
    else:
        say(
            f"added {kind} {added.version} ({content}): its content was in the store already, so"
            f" nothing was copied ({seconds:.2f} s)"
        )
    say(f"snapshot {added.version.snapshot.id}, content {ref.content}")
    if output is options.Format.JSON:
        emit(
            {
                "kind": kind,
                "name": name,
                "version": version,
                "created": added.created,
                "snapshot": added.version.snapshot.id,
                "content": ref.content,
                "digest": ref.digest,
                "files": added.files,
                "bytes": ref.size,
                "read_bytes": added.read,
                "copied_files": added.copied_files,
                "copied_bytes": added.copied_bytes,
                "files_at": ref.files_at,
                "labels": dict(added.version.snapshot.labels),
                "seconds": round(seconds, 3),
            }
        )

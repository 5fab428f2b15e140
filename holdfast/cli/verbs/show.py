"""Show one bundle or snapshot in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import options
from holdfast.cli.context import (
    find_bundle,
    means_snapshot,
    open_snapshot,
)
from holdfast.cli.output import emit, pairs, result, table
from holdfast.defaults import MEMORY
from holdfast.text import size, when

if TYPE_CHECKING:
    from holdfast.manifest import Manifest


def show(
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
    """Show what a bundle or a snapshot says about itself.

    Example: holdfast show step-00000100
    """
    if means_snapshot(target, volume, run, store):
        catalog, choice = open_snapshot(target, run, store, owner, workload, memory, deadline)
        snapshot = choice.snapshot
        if output is options.Format.JSON:
            emit(snapshot.model_dump(mode="json"))
            return
        pairs(
            {
                "snapshot": snapshot.id,
                "workload": snapshot.workload,
                "run": snapshot.run,
                "generation": snapshot.generation,
                "created": when(snapshot.created),
            }
        )
        for ref in snapshot.bundles:
            result()
            pairs(
                {
                    "bundle": f"{ref.name} ({ref.kind}, {size(ref.size)})",
                    "data": f"{catalog.store.url}/{ref.data}/",
                    "manifest": f"{catalog.store.url}/{ref.manifest}",
                    "labels": _labels(ref.labels),
                    "content": ref.content,
                    "digest": ref.digest,
                }
            )
        return
    bundle = find_bundle(target, volume, run)
    if output is options.Format.JSON:
        emit({"path": str(bundle.path), **bundle.manifest.model_dump(mode="json")})
    else:
        _show_manifest(bundle.path, bundle.manifest)


def _show_manifest(path: Path, manifest: Manifest) -> None:
    pairs(
        {
            "bundle": f"{manifest.name} ({manifest.kind}, {size(manifest.size)})",
            "path": path,
            "created": when(manifest.created),
            "labels": _labels(manifest.labels),
            "content": manifest.content,
            "digest": manifest.digest,
        }
    )
    result()
    table(
        (">size", "sha256", "file"),
        [(size(entry.size), entry.sha256, entry.path) for entry in manifest.files],
    )


def _labels(labels: Mapping[str, str | int]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())

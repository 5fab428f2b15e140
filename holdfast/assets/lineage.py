"""Lineage: from which run, data, code, image and parent a model or checkpoint came.

It stands in labels, which the trainer writes: `dataset` and `parent` are hashes of content, by
which a store finds the versions again whatever their names are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.assets.versions import resolve, versions
from holdfast.labels import step_of
from holdfast.manifest import Manifest
from holdfast.progress import SILENT, Progress
from holdfast.store.documents import CONTENT
from holdfast.store.snapshot import Catalog

#: labels of a checkpoint that say where it came from, in the order in which people read them
KEYS = ("run", "step", "checkpoint", "dataset", "code", "image", "parent")
#: the kind of the version that a label names by its content
NAMES = {"dataset": "dataset", "parent": "model"}


def of_bundle(manifest: Manifest) -> dict[str, str | int]:
    """The lineage labels of a version that is made from this bundle."""
    found: dict[str, str | int] = {
        key: manifest.labels[key]
        for key in KEYS
        if key in manifest.labels and manifest.labels[key] != CONTENT
    }
    if (step := step_of(manifest.name, manifest.labels)) is not None:
        found["step"] = step
    if manifest.kind == "checkpoint":
        found["checkpoint"] = manifest.digest
    return found


def named(
    catalog: Catalog,
    *,
    dataset: str | None = None,
    parent: str | None = None,
    progress: Progress = SILENT,
) -> dict[str, str | int]:
    """The lineage labels for a dataset and a parent model that a person names.

    Raises NoSnapshot for one that is not in the store.
    """
    given = {"dataset": dataset, "parent": parent}
    return {
        key: resolve(catalog, text, NAMES[key], progress=progress).ref.content
        for key, text in given.items()
        if text
    }


def lineage(
    catalog: Catalog | None, labels: Mapping[str, str | int], *, progress: Progress = SILENT
) -> dict[str, dict[str, Any]]:
    """What the labels say of the origin: by key the ``value``, and for a dataset or parent model
    the ``versions`` in the store that have that content, such as ``["churn:3"]``."""
    found: dict[str, dict[str, Any]] = {}
    for key in KEYS:
        if key not in labels:
            continue
        found[key] = {"value": labels[key]}
        if key in NAMES and catalog is not None:
            known = versions(catalog, NAMES[key], progress=progress)
            matching = [str(one) for one in known if one.ref.content == labels[key]]
            found[key]["versions"] = matching
    return found

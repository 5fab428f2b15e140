"""Kubernetes objects: plain YAML, merged with settings as data, registered as typed resources.

Each file in manifests/ is a valid object by itself. Settings are merged into the parsed object,
never into its text, so that no value can change the structure.
"""

import functools
import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pulumi
import yaml

PROJECT_DIRECTORY = Path(__file__).resolve().parents[1]
MANIFESTS = PROJECT_DIRECTORY / "manifests"
BLUEPRINTS = PROJECT_DIRECTORY / "blueprints"
#: What `holdfast` brings along, to be read as these are: it is not imported.
RECOVERY = PROJECT_DIRECTORY / "holdfast" / "recovery"

PROVIDER_VERSION = importlib.metadata.version("pulumi-kubernetes")

Manifest = dict[str, Any]


def load(name: str, directory: Path = MANIFESTS) -> Manifest:
    """The one object in ``<name>.yaml``."""
    (document,) = _documents(directory / f"{name}.yaml")
    return deepcopy(document)


def load_all(name: str, directory: Path = MANIFESTS) -> dict[str, Manifest]:
    """The objects in ``<name>.yaml`` by their kind."""
    return {doc["kind"]: deepcopy(doc) for doc in _documents(directory / f"{name}.yaml")}


@functools.cache
def _documents(path: Path) -> list[Manifest]:
    """A file is read once in a process: a test suite collects the graph a hundred times."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def merge(base: Any, change: Any) -> Any:
    """``base`` with ``change`` over it: a new value, neither argument is touched.

    Mappings merge by key. Lists of mappings that have a ``name`` (containers, volumes, ports, env)
    merge by that name, as in a strategic merge patch; any other value replaces the old one.
    """
    if isinstance(base, Mapping) and isinstance(change, Mapping):
        return {
            key: merge(base.get(key), change[key]) if key in change else merge(base[key], base[key])
            for key in dict.fromkeys((*base, *change))
        }
    if _is_named(base) and _is_named(change):
        changes = {item["name"]: item for item in change}
        kept = [merge(item, changes.pop(item["name"], item)) for item in base]
        return [*kept, *(merge(item, item) for item in changes.values())]
    if isinstance(change, list | tuple):
        return [merge(item, item) for item in change]
    if isinstance(change, Mapping):
        return {key: merge(value, value) for key, value in change.items()}
    return change


def _is_named(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


class CustomObject(pulumi.CustomResource):
    """An object of a custom kind with every top-level field.

    ``apiextensions.CustomResource`` and the YAML resources of the SDK keep only ``metadata`` and
    ``spec``: a Blueprint would lose its ``actions`` without a word.
    """

    def __init__(self, name: str, manifest: Manifest, opts: pulumi.ResourceOptions) -> None:
        versioned = pulumi.ResourceOptions(version=PROVIDER_VERSION)
        super().__init__(
            f"kubernetes:{manifest['apiVersion']}:{manifest['kind']}",
            name,
            dict(manifest),
            pulumi.ResourceOptions.merge(versioned, opts),
        )


def register(name: str, manifest: Manifest, opts: pulumi.ResourceOptions) -> pulumi.CustomResource:
    """Declare one object under the Pulumi name ``name``, as the SDK's type for its kind."""
    fields = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")}
    kind = _sdk_type(manifest["apiVersion"], manifest["kind"])
    if kind is None:
        return CustomObject(name, manifest, opts)
    arguments = {_argument(key): value for key, value in fields.items()}
    return kind(name, opts=opts, **arguments)


def _argument(field: str) -> str:
    """What the SDK calls a top-level field of YAML: ``role_ref`` for roleRef."""
    return re.sub(r"([A-Z])", r"_\1", field).lower()


def _sdk_type(api_version: str, kind: str) -> type[pulumi.CustomResource] | None:
    """``pulumi_kubernetes.batch.v1.Job`` for a batch/v1 Job; None for a kind it does not know."""
    group, _, version = api_version.rpartition("/")
    module = (group or "core").removesuffix(".k8s.io").split(".")[0]
    if "." in group and not group.endswith(".k8s.io"):
        return None
    try:
        return getattr(importlib.import_module(f"pulumi_kubernetes.{module}.{version}"), kind, None)
    except ModuleNotFoundError:
        return None

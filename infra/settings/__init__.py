"""The stack's settings: one frozen model, read from Pulumi.<stack>.yaml, every rule checked here.

``load(stack)`` reads the file without an engine; ``from_config(config)`` asks the running engine.
Both give the same model or raise ``SettingsError`` with every problem, one line each, before any
resource exists. ``target`` says which model it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pulumi
import yaml
from pulumi.runtime import config as runtime_config
from pydantic import ValidationError

from infra.settings.eks import EksStack
from infra.settings.foreign import ForeignPods, Owner
from infra.settings.network_volumes import (
    EbsVolume,
    EfsVolume,
    FsxLustreVolume,
    IscsiVolume,
    NfsVolume,
)
from infra.settings.pipeline import ExistingServer, Pipeline, PipelineBackup, Tracking
from infra.settings.problems import SettingsError, explain
from infra.settings.protection import Schedule
from infra.settings.stack import (
    EksAccess,
    Images,
    KanisterSettings,
    KubernetesSettings,
    KubernetesStack,
    Settings,
)
from infra.settings.store import BackupStore, ExistingStore, Retention
from infra.settings.volumes import ExistingClaim, HostPathVolume, Volume
from infra.settings.workload import AnyWorkload, Application, Resources, Workload

__all__ = [
    "AnyWorkload",
    "Application",
    "BackupStore",
    "EbsVolume",
    "EfsVolume",
    "EksAccess",
    "EksStack",
    "ExistingClaim",
    "ExistingServer",
    "ExistingStore",
    "ForeignPods",
    "FsxLustreVolume",
    "HostPathVolume",
    "Images",
    "IscsiVolume",
    "KanisterSettings",
    "KubernetesSettings",
    "KubernetesStack",
    "NfsVolume",
    "Owner",
    "Pipeline",
    "PipelineBackup",
    "Resources",
    "Retention",
    "Schedule",
    "Settings",
    "SettingsError",
    "Tracking",
    "Volume",
    "Workload",
    "from_config",
    "load",
    "parse",
]

PROJECT_DIRECTORY = Path(__file__).resolve().parents[2]

#: Where a running program finds its settings: the project's namespace in Pulumi's configuration.
NAMESPACE = "holdfast"

TARGETS: dict[str, type[Settings]] = {"eks": EksStack, "kubernetes": KubernetesStack}


def parse(data: Mapping[str, Any]) -> Settings:
    """Check plain data; raises SettingsError with one line for each problem."""
    known = ", ".join(TARGETS)
    if "target" not in data:
        raise SettingsError([f"target: missing: give one of {known}"])
    model = TARGETS.get(str(data["target"]))
    if model is None:
        raise SettingsError([f"target: {data['target']!r} is not known: use one of {known}"])
    try:
        # By way of JSON, since strict types then mean JSON's types: a list may become a tuple.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise SettingsError(explain(error, model)) from None


def load(stack: str, directory: Path = PROJECT_DIRECTORY) -> Settings:
    """The settings in Pulumi.<stack>.yaml, with no engine."""
    path = directory / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = sorted(p.name.split(".")[1] for p in directory.glob("Pulumi.*.yaml"))
        raise SettingsError(
            [f"stack {stack!r}: there is no {path.name}: use one of {', '.join(known)}"]
        )
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SettingsError([f"{path.name}: is not valid YAML ({reason}): correct it"]) from None
    values = _of_project(document.get("config") or {})
    return parse({key: _decoded(key, value) for key, value in values.items()})


def from_config(config: pulumi.Config) -> Settings:
    """The settings of the running stack, as the engine hands them over."""
    values = {**pulumi.runtime.get_config_env(), **runtime_config.CONFIG.get()}
    return parse(with_values({key: _decoded(key, config.get(key)) for key in _of_project(values)}))


def with_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have a value. Pulumi.yaml gives an empty default to each setting that only
    one target has, since the engine would demand it of all stacks otherwise."""
    return {key: value for key, value in values.items() if value not in ({}, [], "", None)}


def _of_project(config: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{NAMESPACE}:"
    return {
        key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)
    }


def _decoded(key: str, value: Any) -> Any:
    """The engine hands everything over as text, and `pulumi config set` without --path stores it as
    text: JSON, except for a setting that is text itself."""
    if not isinstance(value, str) or _is_text(key):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _is_text(key: str) -> bool:
    fields = [model.model_fields[key] for model in TARGETS.values() if key in model.model_fields]
    kinds = [each for field in fields for each in get_args(field.annotation) or [field.annotation]]
    return all(kind is str or isinstance(kind, str) for kind in kinds) and bool(kinds)

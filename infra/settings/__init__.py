"""The stack's settings: one frozen model, read from Pulumi.<stack>.yaml, every rule checked here.

``load(stack)`` reads the file without an engine; ``from_config(config)`` asks the running engine.
Both give the same model or raise ``SettingsError`` with every problem, one line each, before any
resource exists.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pulumi
import yaml
from pulumi.runtime import config as runtime_config
from pydantic import Field, ValidationError, field_validator, model_validator

from infra.settings.fields import Image, Model, Name
from infra.settings.problems import SettingsError, explain
from infra.settings.store import BackupStore, ExistingStore, Retention
from infra.settings.volumes import ExistingClaim, HostPathVolume, Volume
from infra.settings.workload import Resources, Workload

__all__ = [
    "BackupStore",
    "ExistingClaim",
    "ExistingStore",
    "HostPathVolume",
    "Images",
    "KanisterSettings",
    "KubernetesSettings",
    "Resources",
    "Retention",
    "Settings",
    "SettingsError",
    "Volume",
    "Workload",
    "from_config",
    "load",
    "parse",
]

PROJECT_DIRECTORY = Path(__file__).resolve().parents[2]

#: Where a running program finds its settings: the project's namespace in Pulumi's configuration.
NAMESPACE = "holdfast"

#: Namespaces that the cluster or another layer owns.
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease", "holdfast-system")


class KubernetesSettings(Model):
    """Which cluster, and how to reach it."""

    context: str | None = None
    """The kubeconfig context. Default: the current one."""
    kubeconfig: str | None = None
    """The kubeconfig file. Default: KUBECONFIG, else the one in your home directory."""


class Images(Model):
    """Container images. Never ``latest``: what runs must not depend on the day."""

    tools: Image = "holdfast-tools:dev"
    """The ``holdfast`` command: recover container, backup CronJob, Kanister's tasks."""
    training: Image = "holdfast-training:dev"
    """The trainer, unless a workload names its own."""


class KanisterSettings(Model):
    """The Kanister operator, which runs the Blueprints."""

    namespace: Name = "kanister"
    """Its namespace, which holds Blueprints and ActionSets too."""
    chart: str = Field(default="kanister-operator", min_length=1)
    """The chart's name in the repository, or the path of a chart on disk."""
    version: str = Field(default="0.119.0", pattern=r"^\d+\.\d+\.\d+$")
    """The chart's version, equal to Kanister's."""
    repository: str | None = "https://charts.kanister.io"
    """The chart repository; null for a chart on disk."""
    values: dict[str, Any] = Field(default_factory=dict)
    """Further Helm values, merged over Holdfast's: an image mirror, node selectors, tolerations."""


class Settings(Model):
    """Everything that differs from one stack to another."""

    target: Literal["kubernetes"]
    """``kubernetes``: any cluster that a kubeconfig context reaches."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """Which cluster."""
    cluster_identifier: str = Field(min_length=1, max_length=253)
    """A name for the cluster. While it stays, a changed server address (kind and minikube pick
    another port at each start) replaces nothing; another name is another cluster and replaces
    everything."""
    images: Images = Images()
    """Container images."""
    run_as: int = Field(default=1000, ge=1, le=2**31 - 1)
    """User and group id of every pod of the stack; not 0, which ``restricted`` refuses."""
    kanister: KanisterSettings = KanisterSettings()
    """The Kanister operator."""
    backup_store: BackupStore
    """Where backups live."""
    workloads: dict[Name, Workload] = Field(min_length=1)
    """Training jobs by name. The first one's names are the stack's plain exports."""

    @field_validator("workloads")
    @classmethod
    def _namespaces_are_the_stacks(cls, workloads: dict[str, Workload]) -> dict[str, Workload]:
        for name, workload in workloads.items():
            if workload.namespace in SYSTEM_NAMESPACES:
                raise ValueError(
                    f"{name} is in namespace {workload.namespace}, which is not the "
                    "stack's to make: use one of its own, such as training"
                )
        return workloads

    @model_validator(mode="after")
    def _kanister_is_apart(self) -> "Settings":
        for name, workload in self.workloads.items():
            if workload.namespace == self.kanister.namespace:
                raise ValueError(
                    f"workloads.{name}.namespace {workload.namespace} is Kanister's: "
                    "use another, so that no workload can reach the operator"
                )
        return self

    @model_validator(mode="after")
    def _volumes_are_distinct(self) -> "Settings":
        names: dict[str, str] = {}
        paths: dict[str, str] = {}
        for where, scope, volume in self.volumes():
            cluster_wide = isinstance(volume, HostPathVolume)
            key = volume.name if cluster_wide else f"{scope}/{volume.name}"
            if key in names:
                raise ValueError(
                    f"{where}.name '{volume.name}' is {names[key]}'s too: "
                    "give each volume a name of its own"
                )
            names[key] = where
            if isinstance(volume, HostPathVolume):
                for path, other in paths.items():
                    mine = f"{volume.node}:{volume.path}/"
                    if mine.startswith(path) or path.startswith(mine):
                        raise ValueError(
                            f"{where}.path {volume.path} overlaps {other}'s: "
                            "give each volume a directory of its own"
                        )
                paths[f"{volume.node}:{volume.path}/"] = where
        return self

    def volumes(self) -> Iterator[tuple[str, str, Volume]]:
        """Each volume of the stack: the setting it comes from, its namespace, itself."""
        for name, workload in self.workloads.items():
            yield f"workloads.{name}.volume", workload.namespace, workload.volume
        if self.backup_store.volume is not None:
            yield "backup_store.volume", "", self.backup_store.volume

    def namespaces(self) -> list[str]:
        """The workloads' namespaces, each once, in the order of the settings."""
        return list(dict.fromkeys(workload.namespace for workload in self.workloads.values()))


def parse(data: Mapping[str, Any]) -> Settings:
    """Check plain data; raises SettingsError with one line for each problem."""
    try:
        # By way of JSON, since strict types then mean JSON's types: a list may become a tuple.
        return Settings.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise SettingsError(explain(error, Settings)) from None


def load(stack: str, directory: Path = PROJECT_DIRECTORY) -> Settings:
    """The settings in Pulumi.<stack>.yaml, with no engine."""
    path = directory / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = sorted(p.name.split(".")[1] for p in directory.glob("Pulumi.*.yaml"))
        raise SettingsError([f"stack {stack!r}: has no {path.name}: use one of {', '.join(known)}"])
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SettingsError([f"{path.name}: is not YAML ({reason}): correct it"]) from None
    return parse(_of_project(document.get("config") or {}))


def from_config(config: pulumi.Config) -> Settings:
    """The settings of the running stack, as the engine hands them over."""
    values = {**pulumi.runtime.get_config_env(), **runtime_config.CONFIG.get()}
    return parse({key: _decoded(config, key) for key in _of_project(values)})


def _of_project(config: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{NAMESPACE}:"
    return {
        key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)
    }


def _decoded(config: pulumi.Config, key: str) -> Any:
    """Structured values, numbers and booleans are JSON in the engine's hands, plain text is not."""
    value = config.get(key)
    try:
        return json.loads(value) if value is not None else None
    except json.JSONDecodeError:
        return value

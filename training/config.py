"""The settings of a training: one frozen model, filled from options, the environment and defaults.

An option `--save-every` is `HOLDFAST_TRAINING_SAVE_EVERY` in the environment; what the pod shares
with the `holdfast` commands has a name of its own there, such as `HOLDFAST_VOLUME`.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.errors import UsageError
from holdfast.recovery.recover import Start
from holdfast.volume import Volume


class Parallel(StrEnum):
    """How the ranks share the work: a copy of the model each, or a shard of it each."""

    DDP = "ddp"
    FSDP = "fsdp"


class WhenBusy(StrEnum):
    """What to do with a save that falls due while another one is in flight."""

    SKIP = "skip"
    WAIT = "wait"


PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "width": 32, "heads": 2, "block": 32, "batch": 8},  # 35 k parameters
    "small": {"layers": 4, "width": 256, "heads": 4, "block": 128, "batch": 8},  # 3.3 M
    "medium": {"layers": 8, "width": 512, "heads": 8, "block": 256, "batch": 32},  # 25 M
}


_SMALL = PRESETS["small"]


def _named(variable: str) -> dict[str, Any]:
    """The field's own name in the environment, which other commands in the pod share."""
    return {"environment": variable}


class Config(BaseModel):
    """Every setting, with its unit and default. Sizes are in samples, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume: Path = Field(
        description="directory of the volume for bundles",
        json_schema_extra=_named("HOLDFAST_VOLUME"),
    )
    run: str = Field(
        "default",
        description="name of the run: a new name starts anew",
        json_schema_extra=_named("HOLDFAST_RUN"),
    )
    keep: int = Field(
        3,
        ge=1,
        description="how many valid bundles to keep",
        json_schema_extra=_named("HOLDFAST_KEEP"),
    )
    start: Start = Field(
        Start.AUTO,
        description="where no state exists: step 0 (auto, fresh) or stop (require)",
        json_schema_extra=_named("HOLDFAST_START"),
    )
    decision: Path | None = Field(
        None,
        description="file in which `holdfast pull --if-empty` left its decision",
        json_schema_extra=_named("HOLDFAST_DECISION"),
    )
    ranks: int = Field(
        1,
        ge=1,
        description="processes on this node",
        json_schema_extra=_named("HOLDFAST_RANKS"),
    )
    nodes: int = Field(
        1,
        ge=1,
        description="nodes that train together",
        json_schema_extra=_named("HOLDFAST_NODES"),
    )
    min_nodes: int | None = Field(
        None,
        ge=1,
        description="how many nodes are enough while others are gone (default: all)",
        json_schema_extra=_named("HOLDFAST_MIN_NODES"),
    )
    rendezvous: str | None = Field(
        None,
        description="host:port of `python -m training.rendezvous`; several nodes need one",
        json_schema_extra=_named("HOLDFAST_RENDEZVOUS"),
    )
    metrics: Path | None = Field(
        None,
        description="file to append one JSON line per event to",
        json_schema_extra=_named("HOLDFAST_METRICS"),
    )
    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port that serves Prometheus text",
        json_schema_extra=_named("HOLDFAST_PORT"),
    )

    data: Path | None = Field(
        None, description="folder of text to learn (default: this repository's documents)"
    )
    steps: int = Field(200, ge=1, description="the last step")
    save_every: int = Field(20, ge=1, description="steps between two saves")
    save_minutes: float | None = Field(
        None, gt=0, description="save also when this many minutes passed since the last one"
    )
    save_timeout: float = Field(
        300, gt=0, description="seconds that a rank may keep the others waiting in a save"
    )
    when_busy: WhenBusy = Field(
        WhenBusy.SKIP,
        description="skip a save that falls due while one is in flight, or wait for that one first",
    )
    parallel: Parallel = Field(Parallel.DDP, description="ddp or fsdp")
    preset: str = Field("small", description=f"size of the model: {', '.join(PRESETS)}")
    layers: int = Field(
        _SMALL["layers"], ge=1, description="blocks of the model, instead of the preset's"
    )
    width: int = Field(
        _SMALL["width"], ge=2, description="width of the model, instead of the preset's"
    )
    heads: int = Field(
        _SMALL["heads"], ge=1, description="attention heads, instead of the preset's"
    )
    block: int = Field(
        _SMALL["block"], ge=1, description="bytes of context, instead of the preset's"
    )
    batch: int = Field(
        _SMALL["batch"], ge=1, description="samples per step of all ranks, instead of the preset's"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations that are dropped")
    rate: float = Field(1e-3, gt=0, description="highest learning rate")
    warmup: int = Field(20, ge=0, description="steps until the learning rate is highest")
    seed: int = Field(
        0, ge=0, lt=2**31, description="seed of weights, dropout and the order of data"
    )
    threads: int = Field(1, ge=1, description="threads per rank: part of the fingerprint")
    refused_saves: int = Field(
        3, ge=1, description="saves in a row without finite loss and weights before giving up"
    )
    loaders: int = Field(2, ge=0, description="data loader workers per rank")
    log_every: int = Field(10, ge=1, description="steps between two printed lines")
    timeout: float = Field(
        600, gt=0, description="seconds that a rank waits for another one before it gives up"
    )
    max_restarts: int = Field(
        3, ge=0, description="how often the ranks are restarted before the process ends"
    )
    rejoin: float = Field(
        120, gt=0, description="seconds to wait for missing nodes when min_nodes are there"
    )
    heartbeat: int = Field(
        5,
        ge=1,
        description="seconds between a node's heartbeats; without three it is gone",
    )
    attempts: int = Field(
        5, ge=1, description="starts in a row without a newer bundle before giving up for good"
    )
    code: str | None = Field(
        None,
        min_length=1,
        description="what names the code, such as a commit, as a label of each bundle "
        "(default: a hash of this program's source)",
    )
    parent: str | None = Field(
        None,
        min_length=1,
        description="the model that this run starts from, as a label of each bundle",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="name under which the final bundle is registered with MLflow",
    )
    tracking_timeout: float = Field(
        60, gt=0, description="seconds that the end waits for MLflow to take what it lacks"
    )
    shutdown_timeout: float = Field(
        110, gt=0, description="seconds that the ranks have to save when asked to stop"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_the_preset(cls, values: Any) -> Any:
        preset = values.get("preset", "small")
        if preset not in PRESETS:
            raise ValueError(f"preset '{preset}' does not exist: use {', '.join(PRESETS)}")
        return PRESETS[preset] | values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads ({self.heads})")
        if self.batch < self.world_size:
            raise ValueError(
                f"batch {self.batch} leaves some of {self.world_size} ranks without a sample: "
                f"use at least {self.world_size}"
            )
        if self.least_nodes > self.nodes:
            raise ValueError(
                f"min_nodes {self.min_nodes} is more than nodes {self.nodes}: "
                f"use {self.nodes} at most"
            )
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(
                f"{self.nodes} nodes need a rendezvous store: set rendezvous to host:port"
            )
        Volume(self.volume, self.run)  # raises UsageError for a name that no run can have
        return self

    @property
    def least_nodes(self) -> int:
        """How many nodes are enough."""
        return self.min_nodes or self.nodes

    @property
    def world_size(self) -> int:
        """Ranks of all nodes, when none is missing."""
        return self.nodes * self.ranks

    @property
    def shape(self) -> str:
        """What must be equal for weights to fit, as a label of each bundle."""
        return f"gpt layers={self.layers} width={self.width} heads={self.heads} block={self.block}"


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The settings from options, else the environment, else defaults.

    Raises UsageError with one line for all that is wrong. `--help` prints and exits.
    """
    parser = _Parser(prog="python -m training", description=__doc__, allow_abbrev=False)
    for name, field in Config.model_fields.items():
        variable = _variable(name)
        parser.add_argument(
            _option(name),
            metavar="X",
            default=environment.get(variable) or None,
            help=f"{field.description} [{variable}, default {_default(name)}]".replace("%", "%%"),
        )
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    try:
        return Config.model_validate(given)
    except ValidationError as error:
        raise UsageError("; ".join(_problem(item) for item in error.errors())) from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(f"{message}: see `{self.prog} --help`")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    extra = Config.model_fields[name].json_schema_extra
    if isinstance(extra, dict):
        return str(extra["environment"])
    return f"HOLDFAST_TRAINING_{name.upper()}"


def _default(name: str) -> str:
    field = Config.model_fields[name]
    if field.is_required():
        return "none: must be given"
    return "none" if field.default is None else str(field.default)


def _problem(error: Any) -> str:
    message = re.sub(r"^Value error, ", "", error["msg"])
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{name} is missing: give {_option(name)} or {_variable(name)}"
    return f"{_option(name)} {str(error['input'])!r}: {message[0].lower()}{message[1:]}"

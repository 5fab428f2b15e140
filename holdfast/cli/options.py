"""The options of all verbs, each declared once: name, environment variable, help text.

An option given on the command line wins over its environment variable, so that a pod can be
configured by a ConfigMap and a person can still ask for something else.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import complete
from holdfast.errors import UsageError

#: ten years, in seconds: the longest time that an option takes
LONGEST = 315_360_000
#: the largest integer that JSON keeps exactly
LARGEST = 2**53 - 1
#: more than anyone keeps
MANY = 1_000_000

_WHERE = "Where"
_CLUSTER = "Cluster"
_RETENTION = "Retention"
_OUTPUT = "Output"


class Format(StrEnum):
    """How results are reported on stdout."""

    TABLE = "table"
    JSON = "json"


class Side(StrEnum):
    """Which copies a verb looks at."""

    AUTO = "auto"
    VOLUME = "volume"
    STORE = "store"


def parse_bytes(text: str | int) -> int:
    """A size in bytes from ``256MiB``, ``1GB`` or a plain number."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size <= 0:
        raise UsageError(f"invalid size '{text}': expected bytes or a unit, such as 256MiB")
    return size


Volume = Annotated[
    Path | None,
    typer.Option(
        "--volume",
        envvar="HOLDFAST_VOLUME",
        help="Directory where the volume is mounted. It holds one directory per run.",
        metavar="DIR",
        rich_help_panel=_WHERE,
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        envvar="HOLDFAST_RUN",
        help="Name of the run: one training from step 0. Default: the only one on the volume.",
        metavar="NAME",
        rich_help_panel=_WHERE,
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="HOLDFAST_STORE",
        help="The store: s3://bucket/prefix or file:///directory. Endpoint, region and credentials"
        " of S3 come from the standard AWS_* variables, never from here.",
        metavar="URL",
        rich_help_panel=_WHERE,
    ),
]
Owner = Annotated[
    str | None,
    typer.Option(
        "--owner",
        envvar="HOLDFAST_OWNER",
        help="Whose store it is, as project/stack. A store that belongs to another is refused.",
        metavar="PROJECT/STACK",
        rich_help_panel=_WHERE,
    ),
]
Workload = Annotated[
    str | None,
    typer.Option(
        "--workload",
        envvar="HOLDFAST_WORKLOAD",
        help="Name of the workload: one training job with its volume.",
        metavar="NAME",
        rich_help_panel=_WHERE,
    ),
]
Kind = Annotated[
    str,
    typer.Option(
        "--kind",
        envvar="HOLDFAST_KIND",
        help="The kind of the bundles that the run goes on from; others on the volume do not"
        " count. An application's volume holds models.",
        metavar="KIND",
        rich_help_panel=_WHERE,
    ),
]
AssetKind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        envvar="HOLDFAST_ASSET",
        help="dataset or model. Default: whichever has the name.",
        metavar="KIND",
        rich_help_panel=_WHERE,
    ),
]
Asset = Annotated[
    str,
    typer.Argument(
        envvar="HOLDFAST_MODEL",
        help="A dataset or model: NAME (its newest version), NAME:VERSION or NAME@ALIAS.",
        metavar="NAME[:VERSION|@ALIAS]",
    ),
]
Label = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        envvar="HOLDFAST_LABEL",
        help="A label; may be repeated: --label dataset=v3 --label epoch=2.",
        metavar="KEY=VALUE",
    ),
]
Memory = Annotated[
    int,
    typer.Option(
        "--memory",
        envvar="HOLDFAST_MEMORY",
        parser=parse_bytes,
        help="How much memory transfers may use for data in flight, such as 256MiB.",
        metavar="SIZE",
        rich_help_panel=_WHERE,
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        envvar="HOLDFAST_DEADLINE",
        min=1,
        max=LONGEST,
        help="Seconds the verb may take in all. Past it, it fails; nothing half done is visible.",
        metavar="SECONDS",
        rich_help_panel=_WHERE,
    ),
]
Output = Annotated[
    Format,
    typer.Option(
        "--output",
        "-o",
        envvar="HOLDFAST_OUTPUT",
        help="table for people; json for scripts: one document on stdout, messages on stderr.",
        rich_help_panel=_OUTPUT,
    ),
]
Kanister = Annotated[
    bool,
    typer.Option(
        "--kanister",
        envvar="HOLDFAST_KANISTER",
        help="Print the result as Kanister phase-output lines on stdout (for a Blueprint).",
        rich_help_panel=_OUTPUT,
    ),
]
Sides = Annotated[
    Side,
    typer.Option(
        "--side",
        envvar="HOLDFAST_SIDE",
        help="Look at the volume, the store, or (auto) at each of the two that is configured.",
        rich_help_panel=_WHERE,
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        envvar="HOLDFAST_QUICK",
        help="Check that every file exists with its size, without reading the bytes.",
    ),
]
Snapshot = Annotated[
    str,
    typer.Option(
        "--snapshot",
        envvar="HOLDFAST_SNAPSHOT",
        help="A snapshot's ID or its beginning, latest, or before=TIME such as"
        " before=2026-05-01T12:00:00Z.",
        metavar="ID|latest|before=TIME",
        autocompletion=complete.snapshots,
    ),
]
Keep = Annotated[
    int,
    typer.Option(
        "--keep",
        envvar="HOLDFAST_KEEP",
        min=1,
        max=MANY,
        help="How many valid bundles of the run the volume keeps.",
        metavar="N",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        envvar="HOLDFAST_DRY_RUN",
        help="Say what would be deleted, and delete nothing.",
    ),
]
KeepLast = Annotated[
    int,
    typer.Option(
        "--keep-last",
        envvar="HOLDFAST_RETENTION_KEEP_LAST",
        min=0,
        max=MANY,
        help="Keep the newest N snapshots.",
        metavar="N",
        rich_help_panel=_RETENTION,
    ),
]
Hourly = Annotated[
    int,
    typer.Option(
        "--hourly",
        envvar="HOLDFAST_RETENTION_HOURLY",
        min=0,
        max=MANY,
        help="Keep the newest snapshot of each of the last N hours that have one.",
        metavar="N",
        rich_help_panel=_RETENTION,
    ),
]
Daily = Annotated[
    int,
    typer.Option(
        "--daily",
        envvar="HOLDFAST_RETENTION_DAILY",
        min=0,
        max=MANY,
        help="The same for days (UTC).",
        metavar="N",
        rich_help_panel=_RETENTION,
    ),
]
Weekly = Annotated[
    int,
    typer.Option(
        "--weekly",
        envvar="HOLDFAST_RETENTION_WEEKLY",
        min=0,
        max=MANY,
        help="The same for ISO weeks.",
        metavar="N",
        rich_help_panel=_RETENTION,
    ),
]
Monthly = Annotated[
    int,
    typer.Option(
        "--monthly",
        envvar="HOLDFAST_RETENTION_MONTHLY",
        min=0,
        max=MANY,
        help="The same for months.",
        metavar="N",
        rich_help_panel=_RETENTION,
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        envvar="HOLDFAST_GRACE",
        min=0,
        max=LONGEST,
        help="Seconds between marking data as unused and deleting it. A push must finish its"
        " snapshot within half of it.",
        metavar="SECONDS",
        rich_help_panel=_RETENTION,
    ),
]
Api = Annotated[
    str | None,
    typer.Option(
        "--api",
        envvar="HOLDFAST_KUBERNETES_API",
        help="Kubernetes API, such as http://127.0.0.1:8001 of `kubectl proxy`. Default: the"
        " cluster that this pod runs in.",
        metavar="URL",
        rich_help_panel=_CLUSTER,
    ),
]
KanisterNamespace = Annotated[
    str,
    typer.Option(
        "--kanister-namespace",
        envvar="HOLDFAST_KANISTER_NAMESPACE",
        help="Namespace of Kanister's controller, its Blueprints and ActionSets.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        envvar="HOLDFAST_NAMESPACE",
        help="Namespace of the workload.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Claim = Annotated[
    str | None,
    typer.Option(
        "--claim",
        envvar="HOLDFAST_CLAIM",
        help="The workload's persistent volume claim.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Blueprint = Annotated[
    str,
    typer.Option(
        "--blueprint",
        envvar="HOLDFAST_BLUEPRINT",
        help="Name of the Blueprint.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Job = Annotated[
    str | None,
    typer.Option(
        "--job",
        envvar="HOLDFAST_JOB",
        help="The workload's Job, which is suspended during the switch. Default: the workload.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Deployment = Annotated[
    str | None,
    typer.Option(
        "--deployment",
        envvar="HOLDFAST_DEPLOYMENT",
        help="The Deployment, scaled to zero during the switch, where the workload is no Job.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Paused = Annotated[
    str | None,
    typer.Option(
        "--pause",
        envvar="HOLDFAST_PAUSE",
        help="What owns the pods: job, jobset, trainjob, deployment or statefulset, and its name,"
        " or a label that one alone has which has not ended. A restore pauses that, or what is"
        " above it, by a task of its own.",
        metavar="KIND/NAME|LABEL=VALUE",
        rich_help_panel=_CLUSTER,
    ),
]
Configuration = Annotated[
    str | None,
    typer.Option(
        "--configuration",
        envvar="HOLDFAST_CONFIGURATION",
        help="The ConfigMap that stands for a pipeline, in the place of a claim.",
        metavar="NAME",
        rich_help_panel=_CLUSTER,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        envvar="HOLDFAST_TIMEOUT",
        min=1,
        max=LONGEST,
        help="Seconds that one ActionSet may take before it counts as orphaned.",
        metavar="SECONDS",
        rich_help_panel=_CLUSTER,
    ),
]

Target = Annotated[
    str,
    typer.Argument(
        envvar="HOLDFAST_TARGET",
        help="A bundle's name or directory; or a snapshot's ID (or its beginning), latest or"
        " before=TIME.",
        autocompletion=complete.targets,
    ),
]

#: written like this, a label's value becomes a number; longer ones are beyond what JSON can hold
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,15}")


def labels(texts: list[str]) -> dict[str, str | int]:
    """Labels from KEY=VALUE; a value that is written as a whole number becomes one."""
    found: dict[str, str | int] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"invalid label '{text}': expected KEY=VALUE, such as dataset=v3")
        if key in found:
            raise UsageError(f"label '{key}' is given twice: give it once")
        found[key] = int(value) if _INTEGER.fullmatch(value) else value
    return found


def required(value: str | None, option: str) -> str:
    """The option's value, or a misuse that names the option and its variable."""
    if not value:
        variable = "HOLDFAST_" + option.upper().replace("-", "_")
        raise UsageError(f"no {option} is named: give --{option} or set {variable}")
    return value

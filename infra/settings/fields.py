"""The small types that settings are made of: names, sizes, schedules, images.

Each refuses a wrong value with ``rule: remedy``; the settings loader puts the place in front.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, get_args

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

#: What people and tools write for "no value", and no setting can mean.
NO_VALUE = ("", "null", "none", "nil", "undefined", "~")

UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}

_SIZE = re.compile(r"(-?\d+)(Ki|Mi|Gi|Ti|Pi|)")
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
#: Names of objects that others made: Kubernetes' own rule.
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_LABEL = re.compile(
    r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
    r"=[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?"
)
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]{0,62}([@:][A-Za-z0-9][\w.-]{0,62})?")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
#: What every service of AWS takes, and drivers that are given tags in one text: no comma, no quote.
_TAG = re.compile(r"[\w .:/=+@-]+")
#: Parts of tag keys that the stack, AWS, the EBS driver and the network plugin reserve.
_RESERVED_TAGS = (
    "holdfast:", "aws:", "kubernetes.io/", "ebs.csi.aws.com/", "k8s.amazonaws.com", "csivolume",
)  # fmt: skip
_CPU = re.compile(r"\d+m|\d+(\.\d{1,3})?")
_PATH = re.compile(r"(/[^/\0]+)+")
#: Only what the schedule parser of Kubernetes accepts (no L, W, #, seconds or time zones).
_CRON = re.compile(r"[0-9A-Za-z*/,?-]+( [0-9A-Za-z*/,?-]+){4}")


class Model(BaseModel):
    """Settings cannot change once read, refuse unknown keys and never guess a type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*")
    @classmethod
    def _text_is_not_no_value(cls, value: object, info: ValidationInfo) -> object:
        """`pulumi config set … null` stores the text "null", which is a value."""
        if not isinstance(value, str) or value.strip().lower() not in NO_VALUE:
            return value
        field = cls.model_fields[info.field_name or ""]
        if value in get_args(field.annotation):
            return value
        remedy = "give a value" if field.is_required() else "leave it out for the default"
        raise ValueError(f"{value!r} is a text that stands for no value: {remedy}")


def size_bytes(size: str) -> int:
    """The number of bytes in a size such as ``10Gi``."""
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError(f"{size!r} is not a size: write a whole number and a unit, such as 10Gi")
    return int(match[1]) * UNITS[match[2]]


def size_text(count: int) -> str:
    """Bytes as a person writes them: the largest unit that leaves nothing over."""
    unit = next(u for u in reversed(UNITS) if count % UNITS[u] == 0)
    return f"{count // UNITS[unit]}{unit}"


def cpu_cores(amount: str) -> float:
    """Cores of an amount such as ``2`` or ``500m``."""
    return float(amount.removesuffix("m")) / (1000 if amount.endswith("m") else 1)


#: How the regions of AWS' other partitions begin (botocore's ``partitions.json``): each has its own
#: accounts, endpoints, service principals and registries.
PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}


def check_region(value: str) -> str:
    """Check the form of an AWS region's name."""
    if _REGION.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not an AWS region: write one such as us-east-1")
    return value


def partition_of(region: str) -> str:
    """The partition of a region, which every ARN begins with: ``aws`` for most."""
    return next((name for start, name in PARTITIONS.items() if region.startswith(start)), "aws")


def supported_region(value: str) -> str:
    """Check that a stack can be in the region: its partition is ``aws``."""
    partition = partition_of(value)
    if partition != "aws":
        raise ValueError(
            f"{value} is in partition {partition}, which is not supported: its endpoints, service "
            "principals and registries differ: use a region of partition aws, such as us-east-1"
        )
    return check_region(value)


def _tag_key(value: str) -> str:
    reserved = next((word for word in _RESERVED_TAGS if word in value.lower()), None)
    if reserved is not None:
        raise ValueError(f"{value!r} contains {reserved!r}, which is reserved: use another key")
    if len(value) > 128 or _TAG.fullmatch(value.replace("=", ",")) is None:
        raise ValueError(
            f"{value!r} is not a tag's key: use at most 128 letters, digits, spaces and "
            ". : / + - @ _"
        )
    return value


def _tag_value(value: str) -> str:
    if len(value) > 256 or (value and _TAG.fullmatch(value) is None):
        raise ValueError(
            f"{value!r} is not a tag's value: use at most 256 letters, digits, spaces and "
            ". : / = + - @ _"
        )
    return value


def _size(value: str) -> str:
    count = size_bytes(value)
    if count <= 0:
        raise ValueError(
            f"{value} is {'negative' if count < 0 else 'zero'}: use a positive size, such as 10Gi"
        )
    return value


def _name(value: str) -> str:
    if len(value) > 40 or _NAME.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a name: use at most 40 lower-case letters, digits and "
            "inner hyphens, a letter first"
        )
    return value


def _object(value: str) -> str:
    if len(value) > 253 or _OBJECT.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not an object's name: use lower-case letters, digits, '-' and '.', "
            "a letter or digit first and last"
        )
    return value


def _label(value: str) -> str:
    if _LABEL.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a label: write KEY=VALUE, such as team/run=llama")
    return value


def _run(value: str) -> str:
    if len(value) > 63 or _RUN.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a run name: use at most 63 letters, digits, '.', '_' "
            "and '-', a letter or digit first"
        )
    return value


def _model(value: str) -> str:
    if _MODEL.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a model of the store: write NAME@alias, NAME:version or NAME"
        )
    return value


def _env_name(value: str) -> str:
    if _ENV.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not the name of an environment variable: use letters, digits and '_'"
        )
    return value


def _cpu(value: str) -> str:
    if _CPU.fullmatch(value) is None or float(value.rstrip("m")) == 0:
        raise ValueError(
            f"{value!r} is not an amount of CPU: "
            "write cores ('2') or thousandths of a core ('500m')"
        )
    return value


def _path(value: str) -> str:
    if _PATH.fullmatch(value) is None or {".", ".."} & set(value.split("/")):
        raise ValueError(
            f"{value!r} is not an absolute path below the root: write one such as /var/ml_model"
        )
    return value


def _image(value: str) -> str:
    name, _, digest = value.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if not re.fullmatch(r"[\w./:-]+(@sha256:[0-9a-f]{64})?", value):
        raise ValueError(
            f"{value!r} is not an image: write name:tag or name@sha256:<64 hex digits>"
        )
    if not digest and tag in ("", "latest"):
        raise ValueError(
            f"{value!r} has no version, so it can change at any time: add a version tag or a digest"
        )
    return value


def _cron(value: str) -> str:
    remedy = "write five fields, such as '*/15 * * * *' (minute hour day month weekday)"
    if _CRON.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a schedule: {remedy}")
    if "7" in re.split(r"[ ,-]", value.rpartition(" ")[2].partition("/")[0]):
        raise ValueError(f"{value!r} has weekday 7, which Kubernetes refuses: write 0 for Sunday")
    try:
        CronSim(value, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{value!r} is not a schedule ({error}): {remedy}") from None
    return value


Size = Annotated[str, AfterValidator(_size)]
Name = Annotated[str, AfterValidator(_name)]
ObjectName = Annotated[str, AfterValidator(_object)]
Label = Annotated[str, AfterValidator(_label)]
RunName = Annotated[str, AfterValidator(_run)]
ModelName = Annotated[str, AfterValidator(_model)]
EnvName = Annotated[str, AfterValidator(_env_name)]
Cpu = Annotated[str, AfterValidator(_cpu)]
AbsolutePath = Annotated[str, AfterValidator(_path)]
Image = Annotated[str, AfterValidator(_image)]
Cron = Annotated[str, AfterValidator(_cron)]
Region = Annotated[str, AfterValidator(supported_region)]
TagKey = Annotated[str, AfterValidator(_tag_key)]
TagValue = Annotated[str, AfterValidator(_tag_value)]

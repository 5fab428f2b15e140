"""Options that do nothing beside others: typed together they are refused, not ignored.

Only what was typed counts. Variables are set for a whole pod or shell, and each verb takes from
them what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.cli.options import Format, Side
from holdfast.defaults import SHARED
from holdfast.errors import UsageError

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """The parameters do nothing if `when` is true of all values; `reason` says so in words."""

    parameters: tuple[str, ...]
    reason: str
    when: Callable[[Values], bool]


def _is(parameter: str, value: object) -> Callable[[Values], bool]:
    return lambda values: values[parameter] == value


def _given(parameter: str) -> Callable[[Values], bool]:
    return lambda values: values[parameter] is not None


def _a_version(values: Values) -> bool:
    text = str(values["snapshot"])
    return bool(set(text) & set(":@")) and not text.startswith("before=")


KINDS = tuple(SHARED)
_STORE = ("owner", "workload", "memory", "deadline")
_SIDES = (
    Rule(("store", *_STORE), "with --side volume", _is("side", Side.VOLUME)),
    Rule(("volume",), "with --side store", _is("side", Side.STORE)),
    Rule(_STORE, "without --store", _is("store", None)),
)
_POLICY = ("keep_last", "hourly", "daily", "weekly", "monthly", "grace")

RULES: Mapping[str, tuple[Rule, ...]] = {
    "commit": (Rule(("volume", "run"), "with --parent", _given("parent")),),
    "doctor": (
        Rule(("owner", "workload", "memory", "max_age"), "without --store", _is("store", None)),
        Rule(("run", "keep", "kind"), "without --volume", _is("volume", None)),
    ),
    "init-container": (
        Rule(
            ("volume", "run", "store", "owner", "workload", "pause", "secret", "run_as"),
            "without --image: the stack's ConfigMap says it",
            _is("image", None),
        ),
        Rule(("namespace", "api"), "with --image, which asks no cluster", _given("image")),
    ),
    "latest": (Rule(("path",), "with --output json", _is("output", Format.JSON)),),
    "list": (
        Rule(("name",), "without --kind dataset or model", lambda v: v["kind"] not in KINDS),
        Rule(
            ("side", "volume", "run", "workload"),
            "with --kind dataset or model",
            lambda values: values["kind"] in KINDS,
        ),
        Rule(("workload", "volume"), "with --kind pipeline", _is("kind", "pipeline")),
        *_SIDES,
    ),
    "get": (Rule(("volume", "run", "keep"), "without --on-volume", _is("on_volume", False)),),
    "delete": (
        Rule(("workload", "run"), "with a version", _a_version),
        Rule(("kind", "aliased"), "with a snapshot's ID", lambda values: not _a_version(values)),
    ),
    "prune": (
        Rule((*_POLICY, "store", *_STORE), "with --side volume", _is("side", Side.VOLUME)),
        Rule(
            ("keep", "volume", "run", "kind"),
            "without --side volume",
            lambda values: values["side"] != Side.VOLUME,
        ),
    ),
    "pull": (
        Rule(("snapshot",), "with --if-empty, which takes the latest", _is("if_empty", True)),
        Rule(("start", "decision_file"), "without --if-empty", _is("if_empty", False)),
        Rule(("volume",), "with --into", _given("into")),
    ),
    "restore": (
        Rule(("snapshot",), "with --before", _given("before")),
        Rule(("replace_",), "without --configuration", _is("configuration", None)),
    ),
    "verify": (Rule(("side",), "with a TARGET", _given("target")), *_SIDES),
}


def check(verb: str, typed: Collection[str], values: Values) -> None:
    """Raise UsageError if an option was typed that does nothing beside the others."""
    for rule in RULES.get(verb, ()):
        for parameter in rule.parameters:
            if parameter in typed and rule.when(values):
                option = "--" + parameter.rstrip("_").replace("_", "-")
                raise UsageError(f"{option} does nothing {rule.reason}: leave one of them out")
    if "kanister" in typed and values.get("kanister") and values.get("output") == Format.JSON:
        raise UsageError("--kanister and --output json both write to stdout: give only one")

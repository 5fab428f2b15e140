"""Validation errors as lines that a person can act on: ``what: rule: remedy``."""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pulumi
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


class SettingsError(pulumi.RunError):
    """Every problem of one stack's settings, one line each. The engine prints it as it is."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_PLACE = re.compile(r"[a-z_]+(\.[\w-]+)*: ")
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_NAMES = {
    str: "text",
    int: "a number",
    float: "a fraction",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    type(None): "empty",
}


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem that pydantic found in data for ``model``."""
    errors = error.errors()
    places = {
        details["loc"][:length] for details in errors for length in range(len(details["loc"]))
    }
    return [
        _line(details, model)
        for details in errors
        # A list whose items are all wrong counts as too short as well: said once is enough.
        if not (details["type"] == "too_short" and details["loc"] in places)
    ]


def _line(details: ErrorDetails, model: type[BaseModel]) -> str:
    path, parents = _walk(details["loc"], model)
    where = ".".join(path) or "settings"
    kind, given, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "value_error":
        text = str(context["error"])
        # A rule between settings names the place itself.
        return text if not path and _PLACE.match(text) else f"{where}: {text}"
    if kind == "extra_forbidden":
        return f"{where}: unknown key: {_nearest(path[-1], parents[-1])}"
    if kind == "missing":
        return f"{where}: missing: give {_describe(parents[-1], path[-1])}"
    if kind in _TYPES:
        return (
            f"{where}: {given!r} is {_NAMES.get(type(given), 'something else')}: "
            f"write {_TYPES[kind]}"
            + (f" in quotes, '{given}'" if kind == "string_type" and _is_number(given) else "")
        )
    if kind in ("literal_error", "union_tag_invalid"):
        expected = context.get("expected") or context.get("expected_tags")
        tag = context.get("tag", given)
        if not isinstance(tag, str) and f"'{tag}'" in str(expected):
            return f"{where}: {tag} is {_NAMES.get(type(tag))}: write it in quotes, '{tag}'"
        where = f"{where}.kind" if kind == "union_tag_invalid" else where
        return f"{where}: {tag!r} is not known: use one of {_choices(str(expected))}"
    if kind == "union_tag_not_found":
        tags = _choices(", ".join(sorted(_tags(parents[-1], path[-1]))))
        return f"{where}.kind: missing: give one of {tags}"
    if kind in ("greater_than_equal", "greater_than"):
        return (
            f"{where}: {given!r} is too small: use at least {context.get('ge', context.get('gt'))}"
        )
    if kind in ("less_than_equal", "less_than"):
        return (
            f"{where}: {given!r} is too large: use at most {context.get('le', context.get('lt'))}"
        )
    if kind in ("too_short", "string_too_short"):
        return f"{where}: is empty: give {_describe(parents[-1], path[-1])}"
    return f"{where}: {details['msg'].lower()}: see docs/settings.md"


def _is_number(value: Any) -> bool:
    """Whether it was text before YAML, or `pulumi config set --path`, made a number of it."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choices(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")


def _walk(location: tuple[int | str, ...], model: Any) -> tuple[list[str], list[Any]]:
    """The path as it is in the file (pydantic adds a union's tag), and the model of each step."""
    path: list[str] = []
    parents: list[Any] = []
    current: Any = model
    for step in location:
        members = list(_members(current))
        tagged = [m for m in members if _is_model(m) and _tag(m) == step]
        if tagged and len(members) > 1:
            current = tagged[0]
            continue
        parents.append(current)
        path.append(str(step) if step != "[key]" else "(key)")
        current = _child(members, step)
    return path, parents


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without Annotated, Optional and Union."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _members(argument)
    elif annotation is not type(None):
        yield annotation


def _child(members: list[Any], step: int | str) -> Any:
    for member in members:
        if _is_model(member) and step in member.model_fields:
            return member.model_fields[str(step)].annotation
        arguments = typing.get_args(member)
        if typing.get_origin(member) in (dict, Mapping) and arguments:
            return arguments[1]
        if typing.get_origin(member) is tuple and arguments:
            return arguments[0]
    return None


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return typing.get_args(kind.annotation)[0] if kind else None


def _tags(parent: Any, key: str) -> Iterator[str]:
    for model in _members(_child(list(_members(parent)), key)):
        if _is_model(model) and (tag := _tag(model)):
            yield tag


def _nearest(key: str, parent: Any) -> str:
    known = [name for m in _members(parent) if _is_model(m) for name in m.model_fields]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"use one of {', '.join(known)}"


def _describe(parent: Any, key: str) -> str:
    for model in _members(parent):
        if _is_model(model) and key in model.model_fields:
            text = " ".join((model.model_fields[key].description or "").split()).replace("``", "'")
            sentence = text.partition(". ")[0].rstrip(".")
            first = sentence[:1] if sentence[1:2].isupper() else sentence[:1].lower()
            return f"{key} ({first}{sentence[1:]})"
    return key

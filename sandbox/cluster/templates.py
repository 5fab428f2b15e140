"""The subset of Go templates that our Blueprints use; anything else is refused and named.

Text, `{{ .field.path }}`, literals, calls of the listed functions, and `if` / `else if` / `else` /
`end`. As in Kanister (`missingkey=error`), a field that is absent is an error.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sandbox.errors import SandboxError, Unsupported

Evaluator = Callable[[Any], Any]


class TemplateError(SandboxError):
    """A template that cannot be parsed, or that reads a missing field."""


def _index(value: Mapping[str, Any], key: str) -> Any:
    """Go's `index` of a map: empty for an absent key."""
    return value.get(key, "")


def _exists(value: Any, *path: str) -> bool:
    """Whether `path` leads to something."""
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _eq(first: Any, second: Any) -> bool:
    """Go's `eq`: comparing different types is an error, not false."""
    if type(first) is not type(second):
        raise TemplateError(f"eq of {first!r} and {second!r}: incompatible types for comparison")
    return first == second


#: What a Blueprint's own templates may call (Kanister gives them more; ours use these).
BLUEPRINT_FUNCTIONS: dict[str, Callable[..., Any]] = {"index": _index, "eq": _eq}
#: What the conditions of WaitV2 may call: kubectl's go-templates, which have no sprig.
WAIT_FUNCTIONS = BLUEPRINT_FUNCTIONS | {"exists": _exists}

_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')


class Template:
    """A parsed template. Parsing refuses what is outside the subset, before anything runs."""

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.text, self.functions = text, functions
        self._pieces = _ACTION.split(text)  # text and actions alternate
        self._nodes, closer = self._block()
        if closer:
            raise TemplateError(f"{{{{ {closer} }}}} without an if, in {text!r}")

    def render(self, data: Any) -> str:
        """The text for `data`; raises TemplateError for a field that is absent."""
        return "".join(node(data) for node in self._nodes)

    def _block(self) -> tuple[list[Evaluator], str]:
        """This block's nodes, and what closes it: `else …`, `end`, or "" for the text's end."""
        nodes: list[Evaluator] = []
        while True:
            literal = self._pieces.pop(0)
            nodes.append(lambda _, literal=literal: literal)
            if not self._pieces:
                return nodes, ""
            action = self._pieces.pop(0).strip()
            if action.split(" ")[0] in ("else", "end"):
                return nodes, action
            if action.startswith("if "):
                nodes.append(self._branch(action[3:]))
            else:
                value = self._expression(action)
                nodes.append(lambda data, value=value: _text(value(data)))

    def _branch(self, source: str) -> Evaluator:
        condition = self._expression(source)
        body, closer = self._block()
        otherwise: list[Evaluator] = []
        if closer.startswith("else if "):
            otherwise = [self._branch(closer.removeprefix("else if "))]
        else:
            if closer == "else":
                otherwise, closer = self._block()
            if closer != "end":
                raise TemplateError(f"{{{{ if {source} }}}} is not closed, in {self.text!r}")

        def run(data: Any) -> str:
            return "".join(node(data) for node in (body if condition(data) else otherwise))

        return run

    def _expression(self, source: str) -> Evaluator:
        """One operand, or a function with its operands."""
        first, *rest = _TOKEN.findall(source) or [""]
        if function := self.functions.get(first):
            operands = [self._operand(token) for token in rest]
            return lambda data: function(*(operand(data) for operand in operands))
        for extra in rest:
            known = ", ".join(sorted(self.functions))
            raise Unsupported(f"{extra!r} after {first!r} in the template {self.text!r}: the "
                              f"functions here are {known}")  # fmt: skip
        return self._operand(first)

    def _operand(self, token: str) -> Evaluator:
        if token.startswith('"') or re.fullmatch(r"-?\d+|true|false", token):
            value = json.loads(token)
            return lambda _: value
        if re.fullmatch(r"\.|(\.\w+)+", token):
            path = token.split(".")[1:] if token != "." else []
            return lambda data: self._field(data, path)
        raise Unsupported(f"{token!r} in the template {self.text!r}: not in the subset that the "
                          "sandbox renders")  # fmt: skip

    def _field(self, value: Any, path: list[str]) -> Any:
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                raise TemplateError(f"no entry for {key!r} of .{'.'.join(path)}, in {self.text!r}")
            value = value[key]
        return value


def _text(value: Any) -> str:
    """How Go prints a value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def strings(value: Any) -> Iterator[str]:
    """Every string inside `value` that gets rendered."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from strings(inner)


def render(value: Any, data: Mapping[str, Any]) -> Any:
    """A copy of a Blueprint's `args` with every string rendered."""
    if isinstance(value, str):
        return Template(value, BLUEPRINT_FUNCTIONS).render(data)
    if isinstance(value, Mapping):
        return {key: render(inner, data) for key, inner in value.items()}
    return [render(inner, data) for inner in value] if isinstance(value, list) else value

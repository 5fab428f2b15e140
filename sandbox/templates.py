"""The subset of Go templates that our Blueprints use; anything else is refused by its name.

Text, `{{ .field.path }}`, literals, calls of the listed functions, `if` / `else if` / `else` /
`end` and `with` / `else` / `end`, with `{{-` and `-}}` trimming white space. As in Kanister
(`missingkey=error`), a field that is absent is an error and `index` of an absent key is empty.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sandbox.errors import SandboxError, Unsupported


class TemplateError(SandboxError):
    """A template that does not parse, or that reads a field which is not there."""


def _index(value: Any, *keys: Any) -> Any:
    """Go's `index`: the zero value for an absent key of a map."""
    for key in keys:
        if not isinstance(value, Mapping):
            raise TemplateError(f"index of {value!r}: only maps can be indexed here")
        value = value.get(key, "")
    return value


def _exists(value: Any, *path: str) -> bool:
    """Whether `path` leads to something (the wait templates of Kanister have this function)."""
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _eq(first: Any, *others: Any) -> bool:
    """Go's `eq`: comparing different types is an error, not false."""
    for other in others:
        if type(first) is not type(other):
            raise TemplateError(f"eq of {first!r} and {other!r}: incompatible types for comparison")
    return first in others


def _text(value: Any) -> str:
    """How Go prints a value."""
    if value is None:
        return "<no value>"
    return str(value).lower() if isinstance(value, bool) else str(value)


#: What a Blueprint's own templates may call (Kanister gives them more; ours use these).
BLUEPRINT_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "index": _index,
    "eq": _eq,
    "ne": lambda first, second: not _eq(first, second),
    "not": lambda value: not value,
}
#: What the conditions of WaitV2 may call: kubectl's go-templates, which have no sprig.
WAIT_FUNCTIONS = BLUEPRINT_FUNCTIONS | {"exists": _exists}

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(-?\d+)(?![\w.])|([.\w]+)|(\S))')

Node = tuple[Any, ...]


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Split into ("text", …) and ("action", …), white space trimmed where the markers say so."""
    position, trim = 0, False
    for match in _ACTION.finditer(text):
        literal = text[position : match.start()]
        literal = literal.lstrip() if trim else literal
        yield "text", literal.rstrip() if match[1] else literal
        yield "action", match[2].strip()
        position, trim = match.end(), bool(match[3])
    rest = text[position:]
    yield "text", rest.lstrip() if trim else rest


class Template:
    """A parsed template. Parsing refuses what is not in the subset, before anything runs."""

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.text, self.functions = text, functions
        self._pieces = list(_pieces(text))
        self._nodes, closer = self._block()
        if closer is not None:
            raise TemplateError(f"{{{{ {closer} }}}} without an if or with, in {text!r}")

    def render(self, data: Mapping[str, Any]) -> str:
        """The text for `data`; raises TemplateError for a field that is absent."""
        return "".join(self._run(self._nodes, data))

    def _block(self) -> tuple[list[Node], str | None]:
        """Nodes up to the `else …` or `end` that closes this block (or the end of the text)."""
        nodes: list[Node] = []
        while self._pieces:
            kind, value = self._pieces.pop(0)
            word, _, rest = value.partition(" ")
            if kind == "text":
                nodes.append(("text", value))
            elif word in ("if", "with"):
                nodes.append(self._branch(word, rest))
            elif word in ("else", "end"):
                return nodes, value
            else:
                nodes.append(("print", self._expression(value)))
        return nodes, None

    def _branch(self, word: str, condition: str) -> Node:
        expression = self._expression(condition)
        body, closer = self._block()
        otherwise: list[Node] = []
        if closer is None:
            raise TemplateError(f"{{{{ {word} }}}} is never closed, in {self.text!r}")
        if closer.startswith("else "):
            inner, _, rest = closer.removeprefix("else ").partition(" ")
            if inner not in ("if", "with"):
                raise TemplateError(f"{{{{ {closer} }}}} is not a branch, in {self.text!r}")
            otherwise = [self._branch(inner, rest)]
        elif closer == "else":
            otherwise, closer = self._block()
            if closer != "end":
                raise TemplateError(f"{{{{ else }}}} is never closed, in {self.text!r}")
        return (word, expression, body, otherwise)

    def _expression(self, source: str) -> Node:
        tokens = [match for match in _TOKEN.finditer(source) if match[0].strip()]
        expression = self._call(tokens)
        if tokens:
            raise Unsupported(f"{tokens[0][0].strip()!r} in the template {{{{ {source} }}}}: the "
                              "sandbox renders fields, literals and calls only")  # fmt: skip
        return expression

    def _call(self, tokens: list[re.Match[str]]) -> Node:
        """A function with its arguments, or one operand."""
        name = tokens[0][3] if tokens else None
        if name is None or name[0] == "." or name in ("true", "false", "nil"):
            return self._operand(tokens)
        if name not in self.functions:
            known = ", ".join(sorted(self.functions))
            raise Unsupported(f"template function {name!r} is not one that the sandbox has "
                              f"({known}), in {self.text!r}")  # fmt: skip
        tokens.pop(0)
        arguments: list[Node] = []
        while tokens and tokens[0][4] != ")":
            arguments.append(self._operand(tokens))
        return ("call", self.functions[name], arguments)

    def _operand(self, tokens: list[re.Match[str]]) -> Node:
        if not tokens:
            raise TemplateError(f"an empty expression in {self.text!r}")
        string, number, word, sign = tokens.pop(0).groups()
        if string is not None:
            return ("literal", json.loads(string))
        if number is not None:
            return ("literal", int(number))
        if word in ("true", "false", "nil"):
            return ("literal", {"true": True, "false": False}.get(word))
        if word and word.startswith("."):
            return ("field", [part for part in word.split(".") if part])
        if sign == "(":
            inner = self._call(tokens)
            if not tokens or tokens.pop(0)[4] != ")":
                raise TemplateError(f"'(' is never closed, in {self.text!r}")
            return inner
        raise Unsupported(f"{word or sign!r} in the template {self.text!r}: not in the subset that "
                          "the sandbox renders")  # fmt: skip

    def _run(self, nodes: list[Node], dot: Any) -> Iterator[str]:
        for kind, *parts in nodes:
            if kind == "text":
                yield parts[0]
            elif kind == "print":
                yield _text(self._value(parts[0], dot))
            else:
                value = self._value(parts[0], dot)
                inner = value if kind == "with" and value else dot
                yield from self._run(parts[1] if value else parts[2], inner)

    def _value(self, node: Node, dot: Any) -> Any:
        kind, *parts = node
        if kind == "literal":
            return parts[0]
        if kind == "call":
            return parts[0](*(self._value(argument, dot) for argument in parts[1]))
        for key in parts[0]:
            if not isinstance(dot, Mapping) or key not in dot:
                raise TemplateError(f"map has no entry for key {key!r} (.{'.'.join(parts[0])}), "
                                    f"in {self.text!r}")  # fmt: skip
            dot = dot[key]
        return dot


def strings(value: Any) -> Iterator[str]:
    """Every string inside `value`, which are the ones that get rendered."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def render(value: Any, data: Mapping[str, Any]) -> Any:
    """A copy of a Blueprint's `args` with every string rendered."""
    if isinstance(value, str):
        return Template(value, BLUEPRINT_FUNCTIONS).render(data)
    if isinstance(value, Mapping):
        return {key: render(inner, data) for key, inner in value.items()}
    return [render(inner, data) for inner in value] if isinstance(value, list) else value

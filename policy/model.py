"""What a rule sees and says. Plain Python: neither the engine nor the policy SDK is needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any


class Unknown:
    """A value that a preview cannot know. Not false and not missing: a rule must not judge it, and
    `up` asks again when the value is known."""

    def __bool__(self) -> bool:
        raise TypeError("a value of a preview may be unknown: compare it, or test `is UNKNOWN`")

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()

#: What a provider may hand over for a setting that the program did not give.
UNSET = (None, "", [], {})


class Level(Enum):
    """What a violation does: stop `preview` and `up`, or be printed."""

    MANDATORY = "mandatory"
    ADVISORY = "advisory"


@dataclass(frozen=True)
class Resource:
    """One resource of a stack. ``inputs`` are plain values, with UNKNOWN for what a preview does
    not know. ``retain_on_delete`` is None where the engine does not tell (it tells no policy);
    ``sources`` says which resources an input comes from, and only the engine tells that."""

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    protect: bool = False
    retain_on_delete: bool | None = None
    dependencies: frozenset[str] = frozenset()
    sources: Mapping[str, frozenset[str]] | None = None
    provider: Mapping[str, Any] | None = None

    @property
    def stack(self) -> str:
        """The stack's name, which is in every URN."""
        return self.urn.removeprefix("urn:pulumi:").partition("::")[0]

    @property
    def kind(self) -> str | None:
        """The Kubernetes kind; None for what is not an object of a cluster."""
        if not self.type.startswith("kubernetes:"):
            return None
        return self.type.rpartition(":")[2]

    @property
    def namespace(self) -> Any:
        """The object's namespace, ``default`` where it names none."""
        found = at(self.inputs, "metadata", "namespace")
        return "default" if found in UNSET else found

    def in_stacks(self, patterns: Iterable[str]) -> bool:
        """Whether the stack's name fits one of these patterns, such as ``prod*``."""
        return any(fnmatchcase(self.stack, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Violation:
    """One rule that one resource breaks."""

    rule: str
    level: Level
    urn: str | None
    message: str

    def __str__(self) -> str:
        name = self.urn.rpartition("::")[2] if self.urn else "the stack"
        return f"{self.level.value} {self.rule}: {name}: {self.message}"


Config = Mapping[str, Any]
#: Messages about one resource.
Check = Callable[[Resource, Config], Iterable[str]]
#: Resources of the whole stack, and messages about them.
StackCheck = Callable[[Sequence[Resource], Config], Iterable[tuple[Resource, str]]]


@dataclass(frozen=True)
class Rule:
    """One policy. Exactly one of ``check`` (sees one resource) and ``stack_check`` (sees all)."""

    name: str
    description: str
    level: Level
    config: Config = field(default_factory=dict)
    check: Check | None = None
    stack_check: StackCheck | None = None

    def violations(
        self, resources: Sequence[Resource], config: Config | None = None
    ) -> Iterator[Violation]:
        """What breaks this rule; ``config`` replaces the rule's own values, key by key."""
        settings = {**self.config, **(config or {})}
        if self.check is not None:
            found = [(r, message) for r in resources for message in self.check(r, settings)]
        else:
            assert self.stack_check is not None
            found = list(self.stack_check(resources, settings))
        for resource, message in found:
            yield Violation(self.name, self.level, resource.urn, message)


#: Every rule, in the order of the modules that define them.
RULES: list[Rule] = []


def rule(
    name: str, description: str, level: Level = Level.MANDATORY, **config: Any
) -> Callable[[Check], Check]:
    """Declare a rule on one resource. ``config`` holds what a user may change, with defaults."""

    def register(check: Check) -> Check:
        RULES.append(Rule(name, description, level, config, check=check))
        return check

    return register


def stack_rule(
    name: str, description: str, level: Level = Level.MANDATORY, **config: Any
) -> Callable[[StackCheck], StackCheck]:
    """Declare a rule that compares resources with each other."""

    def register(check: StackCheck) -> StackCheck:
        RULES.append(Rule(name, description, level, config, stack_check=check))
        return check

    return register


def at(value: Any, *path: str | int) -> Any:
    """The value at a path; None if it is missing, UNKNOWN if a part of the path is unknown."""
    for key in path:
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(key, str) and isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(key, int) and isinstance(value, list) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def items(value: Any) -> list[Any]:
    """The elements of a list that may be missing, unknown, or one value that stands for itself.
    Elements that are unknown are left out."""
    if value is None or value is UNKNOWN:
        return []
    return [v for v in (value if isinstance(value, list) else [value]) if v is not UNKNOWN]


def known(value: Any) -> bool:
    """Whether nothing in a value is unknown."""
    if isinstance(value, Mapping):
        return all(known(item) for item in value.values())
    if isinstance(value, list):
        return all(known(item) for item in value)
    return value is not UNKNOWN


def lacks(value: Any, wanted: Any) -> bool:
    """Whether a list is known not to have an element."""
    listed = value if isinstance(value, list) else [value]
    return wanted not in listed and UNKNOWN not in listed


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping that may be missing or unknown."""
    return value if isinstance(value, Mapping) else {}


def is_true(value: Any) -> bool:
    """True, or the word: launch templates and storage classes say it as text. Unknown may be."""
    return value is UNKNOWN or value is True or value == "true"


def unset(value: Any) -> bool:
    """Whether the program gives no value; an unknown value counts as given."""
    return value is not UNKNOWN and value in UNSET

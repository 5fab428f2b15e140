"""AWS takes every name, description, tag and document of the stack."""

from collections.abc import Iterator, Mapping
from typing import Any

from policy.model import UNKNOWN, Config, Resource, at, items, mapping, rule
from policy.rules.tags import default_tags
from policy.texts import AUTO_NAME_SUFFIX, AUTO_NAMED, TAG_COUNT, TEXTS, tag_problem


@rule(
    "aws-takes-every-text",
    "Use in names, descriptions and policy documents only the characters and lengths that AWS "
    "takes (policy/texts.py): it refuses others when half of the stack is made.",
)
def texts(resource: Resource, config: Config) -> Iterator[str]:
    for key, text in TEXTS.get(resource.type, {}).items():
        value = at(resource.inputs, key)
        if value is None and AUTO_NAMED.get(resource.type) == key:
            value = resource.name + AUTO_NAME_SUFFIX
        if isinstance(value, str) and (problem := text.problem(value)) is not None:
            shown = repr(value) if len(value) <= 120 else f"of {len(value)} bytes"
            yield f"{key} {shown} {problem}"


@rule(
    "aws-takes-every-tag",
    f"Use tags that every service of AWS takes, and at most {TAG_COUNT} on a resource.",
)
def tags(resource: Resource, config: Config) -> Iterator[str]:
    if not resource.type.startswith(("aws:", "eks:", "pulumi:providers:aws")):
        return
    everywhere = default_tags(resource.provider)
    sets: list[Any] = [at(resource.inputs, "tags")]
    sets += [at(each, "tags") for each in items(at(resource.inputs, "tagSpecifications"))]
    for own in sets:
        if not isinstance(own, Mapping):
            continue
        for key, value in own.items():
            if value is not UNKNOWN and (problem := tag_problem(key, str(value))) is not None:
                yield f"tag {problem}"
        inherited = mapping(everywhere) if own is sets[0] else {}
        if (count := len({**inherited, **own})) > TAG_COUNT:
            yield f"has {count} tags: use at most {TAG_COUNT}, those of the provider included"

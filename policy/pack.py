"""The rules as policies of CrossGuard: the one module that needs its SDK."""

from collections.abc import Mapping, Sequence
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

from policy.model import RULES, UNKNOWN, Config, Resource, Rule
from policy.rules import load_rules

_JSON_TYPES = {bool: "boolean", int: "integer", list: "array", dict: "object", str: "string"}


def policies() -> list[Policy]:
    """Every rule as the engine calls it."""
    load_rules()
    return [_policy(rule) for rule in RULES]


def _policy(rule: Rule) -> Policy:
    schema = {
        key: {"type": _JSON_TYPES[type(value)], "default": value}
        for key, value in rule.config.items()
    }
    common: dict[str, Any] = {
        "name": rule.name,
        "description": rule.description,
        "enforcement_level": EnforcementLevel(rule.level.value),
        "config_schema": PolicyConfigSchema(schema) if schema else None,
    }

    def one(args: ResourceValidationArgs, report: ReportViolation) -> None:
        resource = Resource(
            urn=args.urn,
            type=args.resource_type,
            name=args.name,
            inputs=plain(args.props),
            protect=args.opts.protect,
            provider=plain(args.provider.props) if args.provider else None,
        )
        _report(rule, [resource], plain(args.get_config()), report)

    def all_of_them(args: StackValidationArgs, report: ReportViolation) -> None:
        resources = [_of_stack(resource) for resource in args.resources]
        _report(rule, resources, plain(args.get_config()), report)

    if rule.check is not None:
        return ResourceValidationPolicy(validate=one, **common)
    return StackValidationPolicy(validate=all_of_them, **common)


def _of_stack(resource: PolicyResource) -> Resource:
    return Resource(
        urn=resource.urn,
        type=resource.resource_type,
        name=resource.name,
        inputs=plain(resource.props),
        protect=resource.opts.protect,
        dependencies=frozenset(each.urn for each in resource.dependencies),
        sources={
            key: frozenset(each.urn for each in found)
            for key, found in resource.property_dependencies.items()
        },
        provider=plain(resource.provider.props) if resource.provider else None,
    )


def _report(
    rule: Rule, resources: Sequence[Resource], config: Config, report: ReportViolation
) -> None:
    for violation in rule.violations(resources, config):
        report(violation.message, violation.urn)


def plain(value: Any) -> Any:
    """The SDK's guarded values as plain ones. A guard raises for what a preview does not know, and
    so ends the policy at the first such value: here it is UNKNOWN, and the rest is judged."""
    if isinstance(value, Mapping):
        return {key: _known(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_known(value, index) for index in range(len(value))]
    # Every number comes over the wire as one kind.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _known(container: Any, key: Any) -> Any:
    try:
        return plain(container[key])
    except UnknownValueError:
        return UNKNOWN

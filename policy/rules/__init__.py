"""The rules, grouped by what they protect. Importing a module adds its rules to ``RULES``."""

import importlib

MODULES = (
    "encryption",
    "exposure",
    "permissions",
    "versions",
    "retention",
    "pods",
    "objects",
    "tags",
    "texts",
)


def load_rules() -> None:
    """Import every module of rules, once."""
    for module in MODULES:
        importlib.import_module(f"policy.rules.{module}")

"""IDs that a person shortens: any beginning that only one of them has will do."""

from __future__ import annotations

from collections.abc import Collection

from holdfast.errors import HoldfastError, UsageError

_SHOWN = 10


class NoMatch(HoldfastError):
    """Nothing begins like what was typed."""


def only_match(what: str, beginning: str, known: Collection[str]) -> str:
    """The one of ``known`` that begins like this.

    Raises:
        NoMatch: none does.
        UsageError: several do; the message lists them.
    """
    if beginning in known:
        return beginning
    found = sorted(name for name in known if name.startswith(beginning))
    if not found:
        raise NoMatch(f"no {what} has an ID that begins with '{beginning}': see `holdfast list`")
    if len(found) > 1:
        shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise UsageError(
            f"'{beginning}' is the beginning of {len(found)} IDs: {shown}: add letters"
        )
    return found[0]

"""Everything that Holdfast raises on purpose.

A message is one line: the value, the rule, the remedy. `exit_code` is what a command ends with
when the error reaches its user.
"""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

_SHOWN_PROBLEMS = 20


class ExitCode(IntEnum):
    """How a command or a trainer ends. Scripts and pod failure policies decide by it."""

    DONE = 0
    FAILED = 1
    #: an option or a setting is wrong: the same again fails again
    MISUSE = 2
    #: a trainer that was told to stop, and has saved
    STOPPED = 75
    #: no retry helps: a person has to look
    REFUSED = 76


class HoldfastError(Exception):
    """The root of the hierarchy: catch it to catch whatever Holdfast refuses or fails to do."""

    exit_code = ExitCode.FAILED


class UsageError(HoldfastError):
    """What was typed or set is wrong: the same again fails again."""

    exit_code = ExitCode.MISUSE


class InvalidManifest(HoldfastError, ValueError):
    """These bytes are not a manifest: damaged, of another format, or not in canonical form."""


class InvalidBundle(HoldfastError):
    """The directory is not the bundle that its manifest describes. `problems` is complete."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.path = Path(path)
        self.problems = list(problems)
        super().__init__(f"bundle '{self.path}' is not valid: {_listed(self.problems)}")


class CommitRefused(HoldfastError):
    """These files cannot become a bundle. `problems` lists all there are."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(f"cannot commit: {_listed(self.problems)}")


class NoSpace(HoldfastError):
    """The volume is full (or over its quota). Nothing was committed; older bundles are intact."""


class StoreError(HoldfastError):
    """The store failed or refused."""


class StoreUnreachable(StoreError):
    """No answer, a time-out or a 5xx after all retries. Says nothing about what the store holds."""


class StoreDenied(StoreError):
    """The store answered no: credentials, permissions, or a bucket that does not exist."""


class NotFound(StoreError):
    """The store has no object of this key."""


class AlreadyExists(StoreError):
    """A create-if-absent found the key taken."""


class PreconditionFailed(StoreError):
    """The object changed since it was read."""


class Mismatch(StoreError):
    """Bytes differ from the manifest that promises them. Nothing was marked complete."""


class OwnerMismatch(HoldfastError):
    """The store prefix belongs to another project or stack."""


class DeadlineExceeded(HoldfastError):
    """The verb did not end within its deadline."""


class NoSnapshot(HoldfastError):
    """No snapshot fits what was asked for."""


class RecoveryStopped(HoldfastError):
    """There is no state to go on from, and starting at step 0 was not asked for: do not retry."""

    exit_code = ExitCode.REFUSED


def _listed(problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    hidden = len(problems) - _SHOWN_PROBLEMS
    return f"{shown}; and {hidden} more" if hidden > 0 else shown

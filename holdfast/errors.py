"""The exceptions that Holdfast raises, and the exit codes of its commands.

A message is one line: the value, the rule, the remedy. `exit_code` is the exit code of a command
that ends with the error. This module imports nothing but the standard library.
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
    #: a trainer whose volume has lost its state: a new pod pulls it from the store first
    RECOVER = 74
    #: a trainer that was told to stop, and has saved
    STOPPED = 75
    #: no retry helps: a person has to look
    REFUSED = 76


class HoldfastError(Exception):
    """The base class of all exceptions of Holdfast."""

    exit_code = ExitCode.FAILED


class UsageError(HoldfastError):
    """The caller asked for something invalid; the same call will fail again."""

    exit_code = ExitCode.MISUSE


class InvalidManifest(HoldfastError, ValueError):
    """The bytes are not a valid manifest: damaged, of another format, or not canonical."""


class InvalidBundle(HoldfastError):
    """The directory is not the bundle that its manifest describes. `problems` lists everything."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        self.path = Path(path)
        self.problems = list(problems)
        super().__init__(f"bundle '{self.path}' is not valid: {_listed(self.problems)}")


class CommitRefused(HoldfastError):
    """The files cannot become a bundle. `problems` lists everything that must be fixed first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(f"cannot commit: {_listed(self.problems)}")


class NoSpace(HoldfastError):
    """The volume is full or over its quota. Nothing was committed; older bundles are intact."""


class StoreError(HoldfastError):
    """The store failed or refused a request."""


class StoreUnreachable(StoreError):
    """No answer, a time-out or a 5xx after all retries. What the store holds is unknown."""


class StoreDenied(StoreError):
    """The store refused access: credentials, permissions, or a bucket that does not exist."""


class NotFound(StoreError):
    """The store has no object with this key."""


class NotDeleted(StoreError):
    """These objects could not be deleted; all others were, and the rest of the work went on."""

    def __init__(self, keys: Sequence[str], reason: str) -> None:
        self.keys = list(keys)
        self.reason = reason
        super().__init__(f"could not delete {_listed(self.keys)}: {reason}")


class AlreadyExists(StoreError):
    """The key of an object to be created already exists."""


class PreconditionFailed(StoreError):
    """The object changed since it was read."""


class Mismatch(StoreError):
    """Bytes differ from what a manifest or document says. Nothing was marked complete."""


class IncompleteListing(StoreError):
    """The store may hold more than it lists, so nothing may be deleted on the word of its list."""


class OwnerMismatch(HoldfastError):
    """The store prefix belongs to another project or stack."""


class DeadlineExceeded(HoldfastError):
    """The command did not finish within its deadline."""


class NoSnapshot(HoldfastError):
    """No snapshot or bundle matches the request."""


class RecoveryNeeded(HoldfastError):
    """The state that the pod began with is gone from the volume: another pod has to recover it."""

    exit_code = ExitCode.RECOVER


class RecoveryStopped(HoldfastError):
    """There is no state to resume from, and a start at step 0 was not asked for."""

    exit_code = ExitCode.REFUSED


def _listed(problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    hidden = len(problems) - _SHOWN_PROBLEMS
    return f"{shown}; and {hidden} more" if hidden > 0 else shown

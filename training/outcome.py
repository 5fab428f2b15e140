"""How a training ends, and the exit code that tells Kubernetes."""

from enum import StrEnum

from holdfast.errors import ExitCode


class Outcome(StrEnum):
    """What all ranks agree on at the end. A rank that dies has no outcome: it failed (1)."""

    DONE = "done"  # the last step is saved
    STOPPED = "stopped"  # asked to stop, and the step it had reached is saved
    RETRY = "retry"  # cannot go on here; a new pod may (it pulls from the store first)
    REFUSED = "refused"  # no retry will help: a person has to look

    @property
    def exit_code(self) -> ExitCode:
        """0 completes the Job, 75 and 1 are tried again, 76 fails the Job for good."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Outcome.DONE: ExitCode.DONE,
    Outcome.STOPPED: ExitCode.STOPPED,
    Outcome.RETRY: ExitCode.FAILED,
    Outcome.REFUSED: ExitCode.REFUSED,
}

"""How a training ends, and the exit code that tells Kubernetes."""

from enum import StrEnum

from holdfast.errors import ExitCode


class Outcome(StrEnum):
    """What all ranks agree on at the end. A rank that dies has no outcome: it failed (1)."""

    DONE = "done"  # the last step is saved
    STOPPED = "stopped"  # asked to stop, and the step it had reached is saved
    RETRY = "retry"  # something broke; the next start may do better
    RECOVER = "recover"  # the volume has lost its state; a new pod pulls it from the store first
    REFUSED = "refused"  # no retry will help: a person has to look

    @property
    def exit_code(self) -> ExitCode:
        """0 completes the Job, 1 is tried again in this pod, 74 and 75 in another, 76 is final."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Outcome.DONE: ExitCode.DONE,
    Outcome.STOPPED: ExitCode.STOPPED,
    Outcome.RETRY: ExitCode.FAILED,
    Outcome.RECOVER: ExitCode.RECOVER,
    Outcome.REFUSED: ExitCode.REFUSED,
}

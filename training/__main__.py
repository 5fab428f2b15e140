"""`python -m training`: the command of the training pod.

It ends with 0 when the last step is saved, 75 when it was asked to stop and has saved, 76 when no
retry can help (wrong settings, nothing to recover, the same crash again and again), and with
anything else when a new pod should try.
"""

import os
import sys

from holdfast.errors import HoldfastError
from holdfast.volume import Volume
from training.attempts import Attempts, exhausted
from training.config import Config, load
from training.launch import launch, start_fork_server
from training.outcome import Outcome


def main() -> int:
    """Train as options and environment say; return the exit code."""
    try:
        config = load(sys.argv[1:], os.environ)
    except HoldfastError as error:
        return _end(Outcome.REFUSED, str(error))
    start_fork_server(config)
    return run(config).exit_code


def run(config: Config) -> Outcome:
    """Train, unless the starts before this one show that it is no use."""
    attempts = Attempts(Volume(config.volume, config.run))
    counts = os.environ.get("JOB_COMPLETION_INDEX", "0") == "0"  # of several nodes the first one
    try:
        if counts and (reason := exhausted(attempts.begin(), config.attempts)):
            _end(Outcome.REFUSED, reason)
            return Outcome.REFUSED
    except OSError as error:
        _end(Outcome.RETRY, f"volume '{config.volume}' cannot be written: {error}")
        return Outcome.RETRY
    outcome = launch(config, os.environ)
    if outcome in (Outcome.DONE, Outcome.STOPPED):
        attempts.clear()
    return outcome


def _end(outcome: Outcome, reason: str) -> int:
    print(f"{outcome}: {reason}", file=sys.stderr, flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""`python -m training`: the command of the training pod.

It exits with 0 when the last step is saved, 75 when it was asked to stop and has saved, 76 when no
retry can help (wrong settings, nothing to recover, a crash loop), and anything else when a new pod
should try.
"""

import os
import sys

from holdfast.errors import HoldfastError
from holdfast.volume import Volume
from training.config import Config, load
from training.crash_loop import CrashLoop, reason_to_give_up
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
    """Train, unless the starts before this one were a crash loop."""
    crash_loop = CrashLoop(Volume(config.volume, config.run))
    counts = os.environ.get("JOB_COMPLETION_INDEX", "0") == "0"  # only the first of several nodes
    try:
        if counts and (reason := reason_to_give_up(crash_loop.count_start(), config.attempts)):
            _end(Outcome.REFUSED, reason)
            return Outcome.REFUSED
    except OSError as error:
        _end(Outcome.RETRY, f"volume '{config.volume}' cannot be written: {error}")
        return Outcome.RETRY
    outcome = launch(config, os.environ)
    if outcome in (Outcome.DONE, Outcome.STOPPED):
        crash_loop.reset()
    return outcome


def _end(outcome: Outcome, reason: str) -> int:
    print(f"{outcome}: {reason}", file=sys.stderr, flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())

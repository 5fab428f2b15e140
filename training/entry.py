"""The entry process: settings, the guard against crash loops, then the ranks."""

import os
import sys
from collections.abc import Mapping, Sequence

from holdfast.errors import HoldfastError
from holdfast.volume import Volume
from training.config import Config, load
from training.crash_loop import CrashLoop, CrashLoopFound
from training.launch import Watch, launch, start_fork_server
from training.outcome import Outcome
from training.stop import StopRequested


def train(arguments: Sequence[str], environment: Mapping[str, str]) -> Outcome:
    """Train as options and environment say."""
    try:
        config = load(arguments, environment)
    except HoldfastError as error:
        return _end(Outcome.REFUSED, str(error))
    start_fork_server(config)
    return run(config)


def run(config: Config) -> Outcome:
    """Train, unless the starts before this one were a crash loop."""
    crash_loop = CrashLoop(Volume(config.volume, config.run), config.attempts)
    watch = Watch()
    if os.environ.get("JOB_COMPLETION_INDEX", "0") == "0":  # of several nodes only the first counts
        watch = Watch(crash_loop.count_start, crash_loop.forget_start)
    try:
        watch.starting()
        outcome = launch(config, os.environ, watch)
    except StopRequested:
        watch.stopping()
        return _end(Outcome.STOPPED, "asked to stop before training began: nothing to save")
    except CrashLoopFound as error:
        return _end(Outcome.REFUSED, str(error))
    except OSError as error:
        return _end(Outcome.RETRY, f"volume '{config.volume}' cannot be written: {error}")
    if outcome not in (Outcome.RETRY, Outcome.RECOVER):
        crash_loop.reset()
    return outcome


def _end(outcome: Outcome, reason: str) -> Outcome:
    print(f"{outcome}: {reason}", file=sys.stderr, flush=True)
    return outcome

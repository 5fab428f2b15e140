"""What each rank's process runs.

The entry process imports this module too, so PyTorch is imported inside the function: in a rank
the fork server has imported it already.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from holdfast.errors import ExitCode, HoldfastError
from holdfast.printable import printable
from training.config import Config
from training.outcome import Outcome
from training.stop import Stop, StopFiles


def main(settings: str, environment: dict[str, str], stop_folder: str) -> Outcome:
    """Train. Returns an outcome that all ranks agree on; a failure ends the process at once."""
    files = StopFiles(Path(stop_folder))
    stop = Stop(files)
    import torch
    from torch.distributed import DistError

    from training.trainer import train

    threading.Thread(target=_die_with_the_entry_process, daemon=True).start()
    os.environ.update(environment)  # the fork server has the environment of its own start
    config = Config.model_validate_json(settings)
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyrefly: ignore
    try:
        outcome = train(config, stop)
        if outcome is not Outcome.STOPPED or config.nodes == 1 or files.asked:
            return outcome
        _report("saved, since a node joins or leaves: a new rendezvous follows")
    except HoldfastError as error:
        _report(str(error))
        if error.exit_code in (ExitCode.REFUSED, ExitCode.MISUSE):
            return Outcome.REFUSED
    except DistError as error:
        _report(f"another rank is gone: {str(error).splitlines()[0]}")
    except BaseException:
        traceback.print_exc()
    # A normal exit would wait for threads, which may be waiting for a dead rank.
    sys.stderr.flush()
    os._exit(1)


def _die_with_the_entry_process() -> None:
    """Never outlive it: the next entry process must be the volume's only writer."""
    if entry := multiprocessing.parent_process():
        entry.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _report(text: str) -> None:
    print(printable(f"rank {os.environ.get('RANK', '?')}: {text}"), file=sys.stderr, flush=True)

"""What each rank's process runs.

The entry process imports this module too, so PyTorch is imported in the function: there it comes
from the fork server, which has done that already.
"""

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from holdfast.errors import HoldfastError
from training.config import Config
from training.outcome import Outcome
from training.stop import Stop

_PR_SET_PDEATHSIG = 1


def main(settings: str, environment: dict[str, str], stop_file: str) -> Outcome:
    """Train. Returns only what all ranks agree on; a failure ends the process at once."""
    import torch
    from torch.distributed import DistError

    from training.trainer import train

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive the entry process
    os.environ.update(environment)  # the fork server has the environment of its own start
    config = Config.model_validate_json(settings)
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        return train(config, Stop(Path(stop_file)))
    except HoldfastError as error:
        _tell(str(error))
        if error.exit_code in (Outcome.REFUSED.exit_code, 2):
            return Outcome.REFUSED
    except DistError as error:
        _tell(f"another rank is gone: {str(error).splitlines()[0]}")
    except BaseException:
        traceback.print_exc()
    # Not a normal exit: that would wait for threads which may wait for a dead rank.
    sys.stderr.flush()
    os._exit(1)


def _tell(text: str) -> None:
    print(f"rank {os.environ.get('RANK', '?')}: {text}", file=sys.stderr, flush=True)

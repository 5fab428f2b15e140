"""`python -m training`: the command of the training pod.

It exits with 0 when the last step is saved, 74 when another pod has to recover the volume, 75 when
it was asked to stop and nothing is unsaved, 76 when no retry can help (wrong settings, nothing to
recover, a crash loop), and anything else when it should be started again.
"""

import os
import sys

from holdfast.errors import ExitCode
from training.stop import StopRequested, ignore_signals, raise_on_signals


def main() -> int:
    """Train as options and environment say; return the exit code."""
    try:
        raise_on_signals()  # before the imports below, which take a while
        from training.entry import train

        code = train(sys.argv[1:], os.environ).exit_code
    except StopRequested:
        print("stopped: asked to stop while starting: nothing to save", file=sys.stderr)
        code = ExitCode.STOPPED
    ignore_signals()
    return code


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # PyTorch may be half imported: do not take it apart

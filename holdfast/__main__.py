"""The ``holdfast`` command as a process, also as ``python -m holdfast``."""

import signal


def main() -> None:
    """Run the command. Until it is imported, Ctrl-C ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from holdfast.cli import app

    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    app(prog_name="holdfast")


if __name__ == "__main__":
    main()

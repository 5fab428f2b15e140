"""The ``holdfast`` command as a process, also as ``python -m holdfast``."""

import os
import signal
import sys


def main() -> None:
    """Run the command. Until it is imported, Ctrl-C ends the process without a traceback."""
    _use_utf8()
    # No plugin of pydantic's is ours; to look for one reads the metadata of every package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from holdfast.cli import app

    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    app(prog_name="holdfast")


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode, where the locale has another encoding.

    Names of files are UTF-8 in a bundle and in a store, and Python cannot change the encoding of a
    process that runs. A second start in vain is refused by `holdfast.durable.require_utf8`.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1"})


if __name__ == "__main__":
    main()

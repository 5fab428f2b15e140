"""``python -m holdfast`` is the ``holdfast`` command."""

from holdfast.cli import app

if __name__ == "__main__":
    app(prog_name="holdfast")

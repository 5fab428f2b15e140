"""The ``holdfast`` command: one module per verb.

Nothing heavy is imported before a verb runs, so that `holdfast --help` answers at once.
"""

from holdfast.cli.app import app

__all__ = ["app"]

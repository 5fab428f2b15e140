"""The API server's stand-in, for the commands that ask a cluster."""

import os
from collections.abc import Iterator

import pytest

from holdfast.control import run_action
from testkit.actionset_api import ActionSetApi, serve

#: What a schedule's pod has.
ENVIRONMENT = {
    "HOLDFAST_WORKLOAD": "gpt",
    "HOLDFAST_NAMESPACE": "training",
    "HOLDFAST_CLAIM": "checkpoints-pvc",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ActionSetApi]:
    """A stand-in that answers at once, with no other environment than what a command is given."""
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(run_action.time, "sleep", lambda seconds: None)
    with serve() as double:
        yield double

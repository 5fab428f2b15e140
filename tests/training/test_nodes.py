"""A training on two nodes: an agent of its own each, on loopback, killed together with its ranks.

The loss of a pod that comes back is tested as Kubernetes runs it, in tests/sandbox.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from tests.training.lab import Lab
from training import rendezvous_handler
from training.config import Config
from training.stop import StopFiles

pytestmark = [pytest.mark.torch, pytest.mark.slow]

Process = subprocess.Popen[str]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Nodes:
    """The rendezvous store, and the nodes of one training."""

    def __init__(self, lab: Lab) -> None:
        self.place = f"127.0.0.1:{free_port()}"
        self.lab = lab
        self.processes: list[Process] = []
        self._start("training.rendezvous", "")

    def start(self, failpoint: str = "", **changed: Any) -> Process:
        settings = self.lab.settings(
            nodes=2, ranks=1, loaders=0, rejoin=3, heartbeat=1, max_restarts=3, **changed
        )
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        return self._start("training", failpoint, *options)

    def wait_until_one_came(self) -> None:
        """The first that comes makes this key."""
        host, _, port = self.place.partition(":")
        TCPStore(host, int(port), timeout=timedelta(seconds=120)).get("torch.rendezvous.lab")

    def _start(self, module: str, failpoint: str, *options: str) -> Process:
        ours = {"HOLDFAST_RENDEZVOUS": self.place, "HOLDFAST_FAILPOINT": failpoint}
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options],
            env={**os.environ, **ours},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process


@pytest.fixture
def nodes(lab: Lab) -> Iterator[Nodes]:
    nodes = Nodes(lab)
    yield nodes
    for process in nodes.processes:
        process.kill()
        process.communicate()


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_training_goes_on_without_a_node_that_never_comes_back_where_min_nodes_allows_it(
    nodes: Nodes, lab: Lab, tmp_path: Path
) -> None:
    lost = nodes.start(f"save.shard-written@2=hold:{tmp_path / 'held'}", min_nodes=2)
    nodes.wait_until_one_came()
    left = nodes.start(min_nodes=1)
    wait_for(tmp_path / "held")

    lost.kill()

    output, _ = left.communicate(timeout=90)
    assert left.returncode == 0, output
    assert lab.events("start")[0]["step"] == 0
    (resumed,) = lab.events("resume")
    assert resumed["step"] == 4
    layout = "layout: ddp nodes=2 ranks=1 → ddp nodes=1 ranks=1"
    assert resumed["differences"] == [layout]
    assert f"differs: {layout}" in output
    newest = lab.volume.bundles()[0]
    assert (newest.step, newest.manifest.labels["samples"]) == (12, 96)
    assert newest.manifest.labels["world_size"] == 1


def test_each_node_serves_the_figures_and_when_told_to_stop_waits_for_no_other(
    nodes: Nodes, lab: Lab
) -> None:
    ports = free_port(), free_port()
    drained, left = (nodes.start(steps=10_000, port=port) for port in ports)
    wait_for(lab.bundle(4))
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
            assert b"\nholdfast_training_step " in answer.read()

    drained.send_signal(signal.SIGTERM)

    output, _ = drained.communicate(timeout=120)
    assert drained.returncode == 75, output
    assert "exit barrier" not in output  # what torch says when nobody came to it for ten seconds
    left.send_signal(signal.SIGTERM)
    output, _ = left.communicate(timeout=120)
    assert left.returncode == 75, output


def test_a_rendezvous_store_that_is_not_there_yet_is_waited_for(
    nodes: Nodes, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [RendezvousConnectionError("nobody there")]
    real = rendezvous_handler.create_backend

    def asked(params: Any) -> Any:
        if answers:
            raise answers.pop()
        return real(params)

    monkeypatch.setattr(rendezvous_handler, "create_backend", asked)
    settings = lab.settings(nodes=2, ranks=1, rendezvous=nodes.place)

    handler = rendezvous_handler.make_handler(Config.model_validate(settings), StopFiles(lab.root))
    assert handler.shutdown()
    assert "waiting for the rendezvous store: nobody there" in capsys.readouterr().err

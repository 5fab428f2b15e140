"""One node beside other things of the machine: what is its own, and what it needs."""

import json
import os
import platform
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import cli, keys, node, processes
from cluster.errors import ClusterProblem

LISTEN = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (node, cli):
        monkeypatch.setattr(module, "STATE", tmp_path)
    monkeypatch.setattr(processes, "_RECORDS", tmp_path / "processes")
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(keys, "KEYS", tmp_path / "keys")
    monkeypatch.setattr(keys, "KUBECONFIG", tmp_path / "kubeconfig")
    return tmp_path


def test_another_program_at_the_port_is_not_taken_for_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        processes.start("etcd", [sys.executable, "-c", LISTEN, str(port)])  # cannot have it

        with pytest.raises(ClusterProblem, match=r"(?s)etcd ended; .*in use"):
            processes.wait("etcd", lambda: node._listens("etcd", port))

    processes.start("etcd", [sys.executable, "-c", LISTEN, str(port)])
    try:
        processes.wait("etcd", lambda: node._listens("etcd", port))
    finally:
        processes.stop("etcd")


def test_network_namespaces_of_other_runtimes_are_left_alone(state: Path) -> None:
    pod = state / "run" / "io.containerd.runtime.v2.task" / "k8s.io" / "0f21"
    pod.mkdir(parents=True)
    namespaces = [
        {"type": "pid"},
        {"type": "network", "path": "/var/run/netns/cni-ours"},
    ]
    (pod / "config.json").write_text(json.dumps({"linux": {"namespaces": namespaces}}))
    on_the_host = state / "run" / "io.containerd.runtime.v2.task" / "k8s.io" / "16e2"
    on_the_host.mkdir()
    (on_the_host / "config.json").write_text(
        json.dumps({"linux": {"namespaces": [{"type": "pid"}]}})
    )

    assert node._network_namespaces() == [Path("/var/run/netns/cni-ours")]


def test_down_removes_nothing_where_no_cluster_was_started(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "must_be_root", lambda: None)
    monkeypatch.setattr(node, "stop", lambda: pytest.fail("what it stops is not ours"))
    monkeypatch.setattr(cli, "VOLUMES", state / "volumes")
    (theirs := state / "volumes" / "gpt").mkdir(parents=True)

    done = CliRunner().invoke(cli.app, ["down"])

    assert (done.exit_code, done.output) == (
        0,
        f"no cluster of `make cluster` is in {state}: nothing to stop\n",
    )
    assert theirs.exists()


def test_down_removes_a_cluster_whole(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "must_be_root", lambda: None)
    monkeypatch.setattr(node, "stop", lambda: None)
    monkeypatch.setattr(cli, "VOLUMES", state / "volumes")
    monkeypatch.setattr(cli, "KUBECONFIG", state / "kubeconfig")
    for folder in ("etcd", "processes", "keys", "logs", "volumes/gpt"):
        (state / folder).mkdir(parents=True)
    (state / "kubeconfig").touch()

    assert CliRunner().invoke(cli.app, ["down"]).exit_code == 0

    assert {each.name for each in state.iterdir()} == {"clone", "lock", "logs", "volumes"}
    assert not (state / "volumes" / "gpt").exists()


def test_keys_that_were_not_all_made_are_made_again(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, arguments: str) -> None:
        if arguments.startswith("genrsa"):
            raise OSError("no space left on device")

    monkeypatch.setattr(keys, "_openssl", full)
    with pytest.raises(OSError, match="no space"):
        keys.make("192.0.2.1")
    assert not keys.KEYS.exists()

    monkeypatch.setattr(keys, "_openssl", lambda folder, arguments: None)
    keys.make("192.0.2.1")
    token = (keys.KEYS / "token").read_text()
    assert token
    keys.make("192.0.2.2")  # the machine has another address: the same cluster
    assert (keys.KEYS / "token").read_text() == token
    assert token in (state / "kubeconfig").read_text()


@pytest.mark.parametrize(
    ("lack", "says"),
    [
        ("machine", "this machine is aarch64"),
        ("namespaces", "no mount namespace: start the container with --privileged"),
        ("forwarding", "ip_forward cannot be set to 1"),
    ],
)
def test_what_no_package_brings_is_said_before_anything_is_built(
    lack: str, says: str, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "ip_forward").write_text("0\n")
    monkeypatch.setattr(node, "_FORWARDING", state / "ip_forward")
    monkeypatch.setattr(node, "must_be_root", lambda: None)
    monkeypatch.setattr(node, "_quiet", lambda command: lack != "namespaces")
    monkeypatch.setattr(os, "access", lambda path, mode: lack != "forwarding")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64" if lack == "machine" else "x86_64")

    with pytest.raises(ClusterProblem, match=says):
        node.requirements()

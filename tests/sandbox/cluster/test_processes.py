import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sandbox.cluster import processes
from sandbox.cluster.processes import environment, expand, repoint
from sandbox.errors import Unsupported
from tests.sandbox.tiny import until

MOUNTS = {"/data": Path("/real/one"), "/data/inner": Path("/real/two"), "/tmp": Path("/real/tmp")}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data", "/real/one"),
        ("/data/run-1/x", "/real/one/run-1/x"),
        ("/data/inner/x", "/real/two/x"),
        ("file:///data/stack", "file:///real/one/stack"),
        ("/data:/data/inner", "/real/one:/real/two"),
        ("--dir=/tmp/x", "--dir=/real/tmp/x"),
        ("/database", "/database"),
        ("/other/data", "/other/data"),
        ("s3://bucket/data", "s3://bucket/data"),
        ("s3://data/x", "s3://data/x"),
        ("data", "data"),
    ],
)
def test_a_mount_path_is_replaced_where_it_begins_a_path(value: str, expected: str) -> None:
    assert repoint(value, MOUNTS) == expected


def test_what_was_replaced_is_not_replaced_again() -> None:
    mounts = {"/tmp": Path("/data/tmp"), "/data": Path("/tmp/data")}
    assert repoint("/tmp/x /data/y", mounts) == "/data/tmp/x /tmp/data/y"


def test_references_expand_unless_unknown_or_escaped() -> None:
    assert expand("$(A)/$(B)/$$(A)", {"A": "1"}) == "1/$(B)/$(A)"


def test_env_overrides_configmaps_and_sees_what_came_before() -> None:
    container = {
        "name": "c",
        "envFrom": [
            {"configMapRef": {"name": "settings"}},
            {"configMapRef": {"name": "no", "optional": True}},
        ],
        "env": [
            {"name": "RUN", "value": "second"},
            {"name": "WHERE", "value": "$(ROOT)/$(RUN)"},
        ],
    }
    configmaps = {"settings": {"RUN": "first", "ROOT": "/data"}}
    assert environment(container, configmaps, MOUNTS) == {
        "RUN": "second",
        "ROOT": "/real/one",
        "WHERE": "/real/one/second",
    }


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (
            {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            "Secret 's'",
        ),
        ({"envFrom": [{"secretRef": {"name": "s"}}]}, "Secret 's'"),
        ({"envFrom": [{"configMapRef": {"name": "absent"}}]}, "'absent'"),
        ({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}, "fieldRef"),
    ],
)
def test_a_missing_source_of_a_value_is_refused_by_name(
    entry: dict[str, object], named: str
) -> None:
    with pytest.raises(Unsupported, match=named):
        environment({"name": "c", **entry}, {}, {})


def test_a_kill_reaches_processes_in_sessions_of_their_own(tmp_path: Path) -> None:
    """A child in a new session whose parent has ended: no group or parent leads to it."""
    escape = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
    )
    environ = {processes.TAG: "test-identity/pod/"}
    subprocess.run([sys.executable, "-c", escape], env=environ, check=True)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    assert processes.kill_tree("test-identity/other/") == 0
    assert processes.kill_tree("test-identity/pod/") == 1
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

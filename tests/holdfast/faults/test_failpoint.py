import ast
import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.failpoint import FAILPOINTS, failpoint

ROOT = Path(__file__).parents[3]


def test_nothing_happens_when_the_environment_is_silent():
    failpoint("commit.before-rename")


def test_other_failpoints_pass_while_one_is_armed(monkeypatch):
    monkeypatch.setenv("HOLDFAST_FAILPOINT", "commit.before-rename=raise")
    failpoint("commit.after-rename")


@pytest.mark.parametrize(("action", "number"), [("raise", errno.EIO), ("enospc", errno.ENOSPC)])
def test_a_failpoint_can_fail_as_a_disk_does(monkeypatch, action, number):
    monkeypatch.setenv("HOLDFAST_FAILPOINT", f"commit.before-rename={action}")
    with pytest.raises(OSError, match=r"commit\.before-rename") as caught:
        failpoint("commit.before-rename")
    assert caught.value.errno == number


def test_a_failpoint_acts_at_the_nth_pass_and_only_then(monkeypatch):
    monkeypatch.setenv("HOLDFAST_FAILPOINT", "push.file-uploaded@3=raise,commit.after-rename=raise")
    failpoint("push.file-uploaded")
    failpoint("push.file-uploaded")
    with pytest.raises(OSError, match="file-uploaded"):
        failpoint("push.file-uploaded")
    failpoint("push.file-uploaded")
    with pytest.raises(OSError, match="after-rename"):
        failpoint("commit.after-rename")


@pytest.mark.parametrize(
    "text",
    ["commit.no-such-moment=kill", "commit.before-rename=explode", "commit.before-rename",
     "commit.before-rename@0=kill", "commit.before-rename@x=kill", "commit.before-rename=hold:"],
)  # fmt: skip
def test_a_mistyped_failpoint_is_refused_and_never_ignored(monkeypatch, text):
    monkeypatch.setenv("HOLDFAST_FAILPOINT", text)
    with pytest.raises(UsageError, match="HOLDFAST_FAILPOINT"):
        failpoint("commit.files-written")


def test_kill_ends_the_process_by_sigkill(run_python):
    code = "from holdfast.failpoint import failpoint; failpoint('commit.before-rename')"
    done = run_python(code, failpoint="commit.before-rename=kill")
    assert done.returncode == -signal.SIGKILL


def test_hold_announces_itself_and_waits_to_be_killed(tmp_path):
    here = tmp_path / "here"
    code = (
        "import sys; from holdfast.failpoint import failpoint\n"
        "failpoint('commit.before-rename'); print('went on')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_FAILPOINT": f"commit.before-rename=hold:{here}"},
        stdout=subprocess.PIPE,
    ) as process:
        while not here.exists():
            assert process.poll() is None
        assert here.read_text() == f"{process.pid}\n"
        process.kill()
        output, _ = process.communicate()
    assert output == b""


def test_hold_goes_on_when_its_file_is_removed(tmp_path, monkeypatch):
    here = tmp_path / "here"
    monkeypatch.setenv("HOLDFAST_FAILPOINT", f"commit.before-rename=hold:{here}")
    with ThreadPoolExecutor() as pool:
        held = pool.submit(failpoint, "commit.before-rename")
        while not here.exists():
            assert not held.done()
        here.unlink()
        assert held.result(timeout=10) is None


def _names_in(*packages: str) -> set[str]:
    """Every failpoint("name") that the sources pass."""
    names = set()
    for package in packages:
        for source in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("failpoint"):
                    names.add(ast.literal_eval(node.args[0]))
    return names


def test_every_failpoint_in_the_sources_is_registered_and_every_registered_one_is_used():
    assert _names_in("holdfast", "training") == FAILPOINTS

"""Standard streams as a user finds them: full, closed, narrow, without colour, interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

PYTHON = sys.executable


def shell(command: str, places: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `$hf` is the command."""
    environment = {**places, "hf": f"{PYTHON} -m holdfast", **more}
    return subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def terminal(places: dict[str, str], columns: int, *words: str, **more: str) -> str:
    """What a terminal of so many columns shows; lines that it wraps itself are one line."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**places, "TERM": "xterm-256color", **more}
    process = subprocess.Popen(
        [PYTHON, "-m", "holdfast", *words], env=environment, stdin=follower, stdout=follower,
        stderr=follower,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(leader)
    assert process.wait(60) in (0, 1)
    return shown.decode()


@pytest.mark.parametrize(
    "verb", ["--version", "list", "list -o json", "show latest", "verify --quick", "push --help"]
)
@pytest.mark.parametrize("stdout", [">/dev/full", ">&-"])
def test_a_result_that_cannot_be_written_is_one_line_and_no_success(
    places: dict[str, str], verb: str, stdout: str
):
    done = shell(f"$hf {verb} {stdout}", places)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("holdfast: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert "No space left" in errors[0] or "Bad file descriptor" in errors[0]


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_messages_that_cannot_be_written_fail_nothing(places: dict[str, str], stderr: str):
    done = shell(f"$hf verify -o json {stderr}", places)
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"]


def test_with_every_stream_closed_nothing_is_written_into_a_file_that_took_its_number(
    places: dict[str, str], tmp_path: Path
):
    changed = {**places, "HOLDFAST_STORE": (tmp_path / "a" / "b").as_uri()}
    assert shell("$hf push <&- >&- 2>&-", changed).returncode == 0
    assert shell("$hf verify --side store", changed).returncode == 0


def test_a_reader_that_goes_away_ends_the_verb_in_silence(places: dict[str, str]):
    done = shell("$hf list | true", places)
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_a_terminal_of_another_encoding_fails_nothing(places: dict[str, str], tmp_path: Path):
    volume = tmp_path / "Modell 模"
    (volume / "gpt" / "gen-0001" / "é").mkdir(parents=True)
    more = {"HOLDFAST_VOLUME": str(volume), "PYTHONIOENCODING": "ascii"}
    done = shell("$hf list --side volume; $hf list --side volume -o json", places, **more)
    assert done.stderr == ""
    plain, brace, document = done.stdout.partition("{")
    assert "Modell \\u6a21" in plain
    assert json.loads(brace + document)["bundles"][0]["bundle"] == "é"


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("verb", ["list", "verify", "prune --dry-run"])
def test_nothing_that_a_person_copies_is_cut_at_any_width(
    places: dict[str, str], columns: int, verb: str
):
    documents = json.loads(shell("$hf list -o json", places).stdout)
    copied = {row["snapshot"] for row in documents["snapshots"]}
    if verb != "prune --dry-run":
        copied |= {row["bundle"] for row in documents["bundles"]}
    shown = terminal(places, columns, *verb.split())
    for name in copied:
        assert name in shown


def test_where_no_colour_is_wanted_a_terminal_gets_nothing_but_text(places: dict[str, str]):
    for verb in ("list", "doctor", "verify", "--help", "push --help"):
        assert "\x1b" not in terminal(places, 80, *verb.split(), NO_COLOR="1"), verb
    assert "\x1b[" in terminal(places, 80, "doctor")


@pytest.mark.parametrize("verb", ["list", "latest"])
def test_ctrl_c_says_what_is_left_and_ends_as_a_shell_expects(places: dict[str, str], verb: str):
    program = (
        "import holdfast.cli.context as c, os, signal, sys\n"
        f"import holdfast.cli.verbs.{verb} as verb\n"
        "verb.open_volume = lambda *a: os.kill(os.getpid(), signal.SIGINT)\n"
        "from holdfast.cli import app\n"
        f"sys.argv = ['holdfast', '{verb}']\n"
        "app()"
    )
    done = subprocess.run(
        [PYTHON, "-c", program], env=places, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "holdfast: interrupted: nothing was changed\n"


def test_ctrl_c_while_the_command_is_imported_prints_no_traceback(places: dict[str, str]):
    """The import of the command line's library, stopped half-way."""
    program = (
        "import os, runpy, signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "sys.argv = ['holdfast', 'list']\n"
        "runpy.run_module('holdfast', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [PYTHON, "-c", program], env=places, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""

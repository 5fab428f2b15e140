"""What every verb shares: exit codes, one-line errors, figures, progress."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast import text
from holdfast.cli import app, progress
from holdfast.cli.output import phase_output
from testkit.command_line import all_verbs


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        monkeypatch.delenv(name)


def holdfast(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast", *map(str, args)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["bakup"], 2, "No such command 'bakup'. Did you mean 'backup'?"),
        (["backup", "--timeout", "soon"], 2, "invalid --timeout 'soon': expected a number"),
        (["commit", ".", "--step", "-1"], 2, "invalid --step '-1': expected 0 or more"),
        (["push", "--grace", "9" * 15], 2, "expected 315360000 or less"),
        (["doctor", "--max-age", "inf"], 2, "invalid --max-age 'inf'"),
        (["push", "--nope"], 2, "No such option"),
        (["--nope"], 2, "No such option"),
        (["show"], 2, "Missing argument 'target'"),
        (["list", "--volume", ""], 2, "--volume is empty: give it a value, or leave it out"),
        (["commit", ".", "--label", ""], 2, "--label is empty"),
        (["push", "--select", "foo"], 2, "invalid --select 'foo': expected newest or all"),
        (["commit", "/nowhere"], 2, "invalid DIRECTORY: dir '/nowhere' does not exist"),
        (["show", ""], 2, "TARGET is empty"),
        (["backup"], 2, "no workload is named: give --workload or set HOLDFAST_WORKLOAD"),
        (["latest", "--volume", "/nowhere"], 1, "volume '/nowhere' is not a directory"),
        (["push", "--memory", "lots"], 2, "invalid size 'lots'"),
    ],
)
def test_an_error_is_one_line_with_a_remedy_and_a_code_that_scripts_can_trust(args, code, said):
    done = holdfast(*args)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("holdfast: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_verb_it_shows_its_help():
    done = holdfast()
    assert done.returncode == 2
    assert "Usage: holdfast" in done.stdout
    assert done.stderr == ""


def test_help_needs_neither_the_store_client_nor_the_models():
    code = (
        "import sys\n"
        "from typer.main import get_command\n"
        "from holdfast.cli import app\n"
        "try: get_command(app)(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'obstore', 'pydantic', 'boto3'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(("args", "code"), [(["--version"], 0), (["bakup"], 2)])
def test_the_process_ends_without_taking_the_interpreter_apart(args: list[str], code: int) -> None:
    """Shown to fail: by a return to Python, whose end a thread of obstore may turn into SIGABRT."""
    program = (
        "import atexit, os, sys\n"
        "from holdfast.cli import app\n"
        "atexit.register(os.abort)\n"
        f"sys.argv = ['holdfast', *{args}]\n"
        "app()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=60
    )

    assert done.returncode == code
    assert b"holdfast" in done.stdout + done.stderr


def test_every_verb_shows_an_example_and_every_option_its_variable():
    verbs = all_verbs()
    wanted = "commit push pull stage switch list show latest verify pin unpin prune doctor adopt"
    assert set(wanted.split()) <= set(verbs)
    for name, verb in verbs.items():
        assert f"Example: holdfast {name}" in verb.help or f"holdfast {name}" in verb.help, name
        for option in verb.params:
            if option.param_type_name == "option" and option.name != "help":
                assert option.envvar, f"{name} --{option.name}"
                assert option.help, f"{name} --{option.name}"


def test_an_option_on_the_command_line_wins_over_its_variable(tmp_path: Path):
    result = CliRunner().invoke(
        app, ["latest", "--volume", str(tmp_path)], env={"HOLDFAST_VOLUME": "/nowhere"}
    )
    assert "/nowhere" not in result.stderr


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**4, "5.0 TiB"),
        (5 * 1024**5, "5120.0 TiB"),
    ],
)
def test_sizes_are_shown_in_iec_units(count: int, shown: str):
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(5, "5 s"), (300, "5 min"), (9000, "2.5 h"), (400000, "4.6 d")]
)
def test_ages_are_shown_in_the_unit_that_fits(seconds: float, shown: str):
    assert text.ago(seconds) == shown


def test_progress_in_a_log_is_at_most_one_line_in_ten_seconds(capsys):
    clock = [0.0]
    lines = progress.Lines(clock=lambda: clock[0])
    lines.start("push step-1", files=3, size=100 * 2**20)
    for second in range(25):
        clock[0] = float(second)
        lines.advance(4 * 2**20)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "push step-1: 44 % of 100.0 MiB: 44.0 MiB in 10.0 s (4.6 MB/s)",
        "push step-1: 84 % of 100.0 MiB: 84.0 MiB in 20.0 s (4.4 MB/s)",
    ]


def test_phase_outputs_are_strings_on_lines_of_their_own(capsys):
    phase_output(snapshot="s-1", bytes=12)
    assert capsys.readouterr().out.splitlines() == [
        '###Phase-output###: {"key": "snapshot", "value": "s-1"}',
        '###Phase-output###: {"key": "bytes", "value": "12"}',
    ]


def test_the_reference_names_every_verb_and_every_variable():
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for name, verb in all_verbs().items():
        assert f"`{name}" in page or f"holdfast {name}" in page, name
        for option in verb.params:
            for variable in [option.envvar] if option.envvar else []:
                short = variable.replace("HOLDFAST_RETENTION", "…")
                assert f"`{variable}`" in page or f"`{short}`" in page, variable

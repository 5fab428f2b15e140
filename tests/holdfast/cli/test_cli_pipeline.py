"""What `holdfast pipeline verify` and `check` tell Kanister."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from holdfast.cli import options
from holdfast.cli.verbs.pipeline.options import report
from holdfast.pipeline.verify import Examination
from holdfast.store.documents import Snapshot


def examined(problems: dict[str, str]) -> Examination:
    snapshot = cast("Snapshot", SimpleNamespace(id="0000000001-x"))
    return Examination(snapshot, {"runs": 2, "aliases": 1}, problems)


def told(found: Examination, capsys: pytest.CaptureFixture[str]) -> Any:
    report(found, kanister=True, output=options.Format.TABLE)
    return capsys.readouterr()


def test_a_phase_says_what_it_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert '{"key": "checked", "value": "2 runs, 1 alias"}' in told(examined({}), capsys).out


def test_a_failed_phase_names_its_problems_where_its_error_is_taken_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit):
        told(examined({"artifact 0/r1/a": "is missing"}), capsys)
    assert "artifact 0/r1/a is missing" in capsys.readouterr().err

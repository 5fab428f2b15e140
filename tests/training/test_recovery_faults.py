"""What a trainer resumes from when the volume has faults."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast import durable
from holdfast.bundle import Bundle, BundleWriter
from holdfast.integrations.ranks import Ranks as OneRank
from holdfast.volume import Volume
from training.config import Config
from training.metrics import Metrics
from training.outcome import Outcome
from training.ranks import Ranks
from training.recover import Recovery, ReportedRun, recover


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path, "run-a")
    for step in (100, 200):
        with BundleWriter(made.generation_path(1), f"step-{step:08d}", "checkpoint") as writer:
            (writer.path / "weights").write_bytes(b"1")
            writer.commit({"step": step, "model": "tiny"})
    return made


def recovery(volume: Volume, **changed: Any) -> Recovery:
    """What a training on a single rank, without process groups, would do."""
    place = {"volume": volume.root, "run": volume.run, "keep": 3, "start": "auto", "decision": None}
    config = cast(Config, SimpleNamespace(**(place | changed)))
    run = ReportedRun(config, cast(Ranks, OneRank()), Metrics(reports=False))
    return recover(run, "tiny")


def found(volume: Volume) -> Bundle | None:
    return recovery(volume).bundle


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Files that cannot be opened, by the end of their path, and with which error."""
    ends: dict[str, int] = {}
    real = durable.open_regular

    def opening(path: Path) -> Any:
        for end, number in ends.items():
            if str(path).endswith(end):
                raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(durable, "open_regular", opening)
    return ends


@pytest.mark.parametrize("file", ["weights", "MANIFEST.json"])
def test_a_trainer_passes_over_a_bundle_on_a_bad_sector_and_leaves_it_there(
    volume: Volume, faults: dict[str, int], file: str
) -> None:
    faults[f"step-00000200/{file}"] = errno.EIO
    bundle = found(volume)
    assert bundle is not None
    assert bundle.step == 100
    faults.clear()
    bundle = found(Volume(volume.root, volume.run))
    assert bundle is not None
    assert bundle.step == 200


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_trainer_that_can_read_no_bundle_fails_and_does_not_begin_at_step_0(
    volume: Volume, faults: dict[str, int], number: int
) -> None:
    faults["weights"] = number
    with pytest.raises(OSError, match=os.strerror(number)):
        found(volume)
    assert volume.quarantined() == []


def test_a_bad_bundle_that_cannot_be_moved_is_not_used_and_does_not_end_the_start(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = volume.bundles()[0].path
    (newest / "weights").write_bytes(b"2")

    def refuse(path: Path, reason: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("holdfast.volume.quarantine", refuse)
    bundle = found(volume)
    assert bundle is not None
    assert bundle.step == 100
    assert newest.exists()


@pytest.mark.parametrize("marked", [{200}, {100, 200}])
def test_a_bundle_that_is_marked_as_not_healthy_is_not_used_and_is_no_reason_for_step_0(
    tmp_path: Path, marked: set[int]
) -> None:
    volume = Volume(tmp_path, "run-a")
    for step in (100, 200):
        with BundleWriter(volume.generation_path(1), f"step-{step:08d}", "checkpoint") as writer:
            (writer.path / "weights").write_bytes(b"1")
            healthy = int(step not in marked)
            writer.commit({"step": step, "model": "tiny", "healthy": healthy})

    found = recovery(volume)

    if marked == {200}:
        assert found.bundle is not None
        assert found.bundle.step == 100
    else:
        assert (found.bundle, found.outcome) == (None, Outcome.REFUSED)
    assert len(volume.bundles()) == 2


def test_a_volume_that_lost_what_the_pod_had_is_for_a_new_pod(tmp_path: Path) -> None:
    decision = tmp_path / "decision.json"
    decision.write_text('{"decision": "pulled"}')
    (tmp_path / "volume").mkdir()

    found = recovery(Volume(tmp_path / "volume", "run-a"), decision=decision)

    assert (found.bundle, found.outcome) == (None, Outcome.RECOVER)

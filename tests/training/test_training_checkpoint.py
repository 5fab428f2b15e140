"""Saving as a bundle, with one rank in this process."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from holdfast.bundle import verify
from holdfast.integrations.dcp import Saver
from holdfast.volume import Volume
from tests.training.lab import alone, saver_of
from training.ranks import Ranks

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with alone(tmp_path_factory.mktemp("unused")) as ranks:
        yield ranks


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path, "lab")


def state() -> dict[str, Any]:
    return {"weights": torch.arange(100_000.0), "progress": {"step": 4}, "ranks": {"0": b"own"}}


def save(ranks: Ranks, volume: Volume, step: int = 4) -> None:
    saver = saver_of(volume, ranks, keep=3)
    saver.begin(step, state(), {"step": step})
    saved = saver.wait()
    assert saved is not None
    assert saved.problem is None


def test_what_changes_right_after_a_save_began_is_not_in_the_bundle(
    ranks: Ranks, volume: Volume
) -> None:
    saver = saver_of(volume, ranks, keep=3)
    for step in (1, 2):  # the second save uses the buffers of the first again
        values = state()
        saver.begin(step, values, {"step": step})
        values["weights"].fill_(-1)
        assert saver.wait() is not None

        read = state() | {"weights": torch.zeros(100_000)}
        path = volume.generation_path(1) / f"step-{step:08d}"
        dcp.load(read, storage_reader=dcp.FileSystemReader(path), process_group=ranks.control)
        assert torch.equal(read["weights"], torch.arange(100_000.0))


def test_equal_state_gives_equal_content_wherever_and_whenever_it_is_saved(
    ranks: Ranks, volume: Volume, tmp_path: Path
) -> None:
    other = Volume(tmp_path / "elsewhere", "other")
    save(ranks, volume, step=4)
    save(ranks, other, step=8)

    one, two = volume.bundles()[0], other.bundles()[0]
    assert one.manifest.content == two.manifest.content
    assert one.manifest.digest != two.manifest.digest


def test_the_hashes_that_were_taken_while_writing_are_those_of_the_files(
    ranks: Ranks, volume: Volume
) -> None:
    save(ranks, volume)

    bundle = verify(volume.bundles()[0].path)
    assert {entry.path for entry in bundle.manifest.files} == {".metadata", "__0_0.distcp"}


@pytest.mark.parametrize(
    "moment",
    ["save.shard-written", "commit.files-written", "commit.manifest-written"],
)
@pytest.mark.parametrize("action", ["raise", "enospc"])
def test_a_save_that_fails_leaves_nothing_and_the_next_one_succeeds(
    ranks: Ranks, volume: Volume, monkeypatch: pytest.MonkeyPatch, moment: str, action: str
) -> None:
    saver = saver_of(volume, ranks, keep=3)
    monkeypatch.setattr("holdfast.failpoint._passed", Counter())
    monkeypatch.setenv("HOLDFAST_FAILPOINT", f"{moment}={action}")

    saver.begin(4, state(), {"step": 4})
    saved = saver.wait()

    assert saved is not None
    assert saved.problem
    assert saver.saved_step is None
    assert list(volume.generation_path(1).iterdir()) == []
    saver.begin(5, state(), {"step": 5})
    again = saver.wait()
    assert again is not None
    assert again.problem is None
    assert saver.saved_step == 5


def test_a_failure_while_the_state_is_copied_fails_the_save_and_not_the_training(
    ranks: Ranks, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError("no memory for a copy")

    saver = saver_of(volume, ranks, keep=3)
    with monkeypatch.context() as patch:
        patch.setattr(saver._stager._state_dict_stager, "stage", out_of_memory)
        saver.begin(4, state(), {"step": 4})
        saved = saver.wait()

    assert saved is not None
    assert saved.problem == "rank 0: no memory for a copy"
    saver.begin(5, state(), {"step": 5})
    again = saver.wait()
    assert again is not None
    assert again.problem is None


def test_a_bundle_is_never_written_twice(ranks: Ranks, volume: Volume) -> None:
    save(ranks, volume)
    saver = saver_of(volume, ranks, keep=3)

    saver.begin(4, state(), {"step": 4})
    saved = saver.wait()

    assert saved is not None
    assert "never replaced" in (saved.problem or "")
    assert len(volume.bundles()) == 1


def test_a_second_save_while_one_is_in_flight_is_an_error_of_the_caller(
    ranks: Ranks, volume: Volume
) -> None:
    saver = saver_of(volume, ranks, keep=3)
    saver.begin(4, state(), {"step": 4})

    with pytest.raises(RuntimeError, match="save of step 5 while step 4 is in flight"):
        saver.begin(5, state(), {"step": 5})

    saver.wait()


def test_only_the_newest_bundles_are_kept_and_those_that_are_pinned(
    ranks: Ranks, volume: Volume
) -> None:
    saver = saver_of(volume, ranks, keep=2)
    for step in range(1, 6):
        saver.begin(step, state(), {"step": step})
        saver.wait()
        cleaned(saver)
        if step == 1:
            volume.pin("step-00000001")

    assert [bundle.step for bundle in volume.bundles()] == [5, 4, 1]


class SlowVolume(Volume):
    """Its bundles are removed only when `removed` is set."""

    def __init__(self, root: Path, run: str) -> None:
        super().__init__(root, run)
        self.removed = threading.Event()
        self.at_once = 0
        self.most = 0

    def keep(self, count: int, dry_run: bool = False) -> list[Path]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.removed.wait(30)
        self.at_once -= 1
        return super().keep(count, dry_run)


def test_a_save_is_done_while_older_bundles_are_still_being_removed(
    ranks: Ranks, tmp_path: Path
) -> None:
    volume = SlowVolume(tmp_path, "lab")
    saver = saver_of(volume, ranks, keep=1)

    for step in (1, 2, 3):
        saver.begin(step, state(), {"step": step})
        saved = saver.wait()
        assert saved is not None
        assert saved.problem is None
        assert saver.saved_step == step
        assert saver.busy  # so that a volume needs no space for yet another bundle

    assert [bundle.step for bundle in volume.bundles()] == [3, 2, 1]
    volume.removed.set()
    cleaned(saver)
    assert [bundle.step for bundle in volume.bundles()] == [3]
    assert volume.most == 1
    assert not saver.busy


def test_a_removal_that_fails_is_reported_once_and_fails_no_save(
    ranks: Ranks, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(volume, "keep", refuse)
    saver = saver_of(volume, ranks, keep=1)
    saver.begin(1, state(), {"step": 1})

    saved = saver.wait()
    cleaned(saver)

    assert saved is not None
    assert saved.problem is None
    assert saver.cleanup.problem() == "read-only file system"
    assert saver.cleanup.problem() is None


def cleaned(saver: Saver) -> None:
    saver.cleanup.wait(30, lambda: False)
    assert not saver.cleanup.busy

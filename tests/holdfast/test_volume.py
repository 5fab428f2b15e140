import errno
import logging
import os
import shutil

import pytest

from holdfast import durable
from holdfast.bundle import BundleWriter, verify
from holdfast.errors import UsageError
from holdfast.manifest import MANIFEST
from holdfast.volume import Volume


@pytest.fixture
def generation(volume):
    return volume.generation_path(1)


def names(bundles):
    return [bundle.name for bundle in bundles]


def steps(*numbers):
    return [f"step-{number:08d}" for number in numbers]


@pytest.mark.parametrize("run", ["a", "run-1", "0", "x" * 63])
def test_a_run_name_that_kubernetes_takes_is_accepted(tmp_path, run):
    assert Volume(tmp_path, run).run_path == tmp_path / run


@pytest.mark.parametrize("run", ["", "A", "-a", "a-", "a_b", "a/b", "..", "x" * 64, "a\n"])
def test_another_run_name_is_refused(tmp_path, run):
    with pytest.raises(UsageError, match="run name"):
        Volume(tmp_path, run)


def test_an_empty_or_missing_volume_has_nothing_and_stays_untouched(volume):
    assert (volume.generations(), volume.present(), volume.bundles()) == ([], None, [])
    assert volume.newest_valid(quarantine=True) is None
    assert (volume.has_bad(), volume.damaged(), volume.pins()) == (False, [], frozenset())
    assert (volume.keep(1), volume.sweep(), volume.history()) == ([], [], [])
    assert not volume.root.exists()


def test_generations_are_ordered_as_numbers(volume):
    for name in ("gen-0002", "gen-10000", "gen-9999", "gen-0000", "gen-00003", "gen-1", "gen-x"):
        (volume.run_path / name).mkdir(parents=True)
    (volume.run_path / "gen-0007").touch()
    (volume.run_path / "gen-0008").symlink_to("gen-0002")
    assert volume.generations() == [2, 9999, 10000]
    assert volume.present() == 10000
    assert volume.generation_path(10000).name == "gen-10000"
    with pytest.raises(UsageError, match="the first one is 1"):
        volume.generation_path(0)


def test_bundles_are_listed_newest_first_in_the_present_generation(volume, write_bundle):
    for number, step in ((1, 100), (1, 300), (2, 50), (2, 200)):
        write_bundle(volume.generation_path(number), step)
    assert names(volume.bundles()) == steps(200, 50)
    assert names(volume.bundles(1)) == steps(300, 100)
    assert volume.bundles(3) == []
    assert [(n, bundle.step) for n, bundle in volume.history()] == [
        (2, 200), (2, 50), (1, 300), (1, 100),
    ]  # fmt: skip


def test_what_is_hidden_or_a_plain_file_is_no_bundle(volume, generation, write_bundle):
    write_bundle(generation, 100)
    (generation / ".tmp-step-00000200-12345678").mkdir()
    (generation / "notes.txt").touch()
    assert names(volume.bundles()) == steps(100)
    assert volume.damaged() == []
    assert not volume.has_bad()


def test_unreadable_manifests_are_kept_apart_with_their_problem(
    volume, generation, write_bundle, flip
):
    flip(write_bundle(generation, 300).path / MANIFEST, 99)
    (write_bundle(generation, 200).path / MANIFEST).unlink()
    write_bundle(generation, 100)
    (generation / "step-00000400").symlink_to("step-00000100")
    assert names(volume.bundles()) == steps(100)
    assert names(error.path for error in volume.damaged()) == steps(400, 300, 200)
    assert volume.has_bad()


def test_the_newest_valid_bundle_is_found_and_what_fails_is_set_aside(
    volume, generation, write_bundle, flip, caplog
):
    for step in (100, 200, 300, 400):
        write_bundle(generation, step)
    flip(generation / "step-00000400" / "__0_0.distcp", 77)
    (generation / "step-00000300" / MANIFEST).unlink()
    found = volume.newest_valid(quarantine=True)
    assert found is not None
    assert found.name == "step-00000200"
    assert names(volume.bundles()) == steps(200, 100)
    kept = volume.quarantined()
    assert [path.name.rsplit("-", 1)[0] for path in kept] == steps(300, 400)
    assert "__0_0.distcp: has other bytes" in kept[1].with_name(f"{kept[1].name}.txt").read_text()
    assert (kept[1] / "__0_0.distcp").exists()
    assert "__0_0.distcp" in caplog.text
    assert volume.has_bad()
    assert Volume(volume.root, volume.run).has_bad()


def test_looking_without_quarantine_changes_nothing_but_remembers(
    volume, generation, write_bundle, flip
):
    write_bundle(generation, 100)
    flip(generation / "step-00000100" / "__0_0.distcp")
    before = sorted(path for path in volume.root.rglob("*"))
    assert volume.newest_valid(quarantine=False) is None
    assert sorted(path for path in volume.root.rglob("*")) == before
    assert volume.has_bad()


def test_a_read_only_volume_still_falls_back(
    volume, generation, write_bundle, flip, monkeypatch, caplog
):
    write_bundle(generation, 100)
    write_bundle(generation, 200)
    flip(generation / "step-00000200" / "__0_0.distcp")

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(durable, "write_durably", read_only)
    monkeypatch.setattr(durable, "make_directories", read_only)
    found = volume.newest_valid(quarantine=True)
    assert found is not None
    assert found.name == "step-00000100"
    assert volume.has_bad()
    assert "could not move it aside" in caplog.text
    assert (generation / "step-00000200").exists()


def test_a_permission_problem_stops_the_search_instead_of_emptying_the_volume(
    volume, generation, write_bundle, monkeypatch
):
    for step in (100, 200):
        write_bundle(generation, step)

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(durable, "hash_file", denied)
    with pytest.raises(PermissionError):
        volume.newest_valid(quarantine=True)
    assert names(volume.bundles()) == steps(200, 100)


def test_a_bundle_that_vanishes_while_it_is_read_is_passed_over(
    volume, generation, write_bundle, monkeypatch, caplog
):
    write_bundle(generation, 100)
    doomed = write_bundle(generation, 200)
    hash_file = durable.hash_file

    def removing(path):
        shutil.rmtree(doomed.path, ignore_errors=True)
        return hash_file(path)

    monkeypatch.setattr(durable, "hash_file", removing)
    found = volume.newest_valid(quarantine=True)
    assert found is not None
    assert found.name == "step-00000100"
    assert not volume.has_bad()
    assert caplog.records == []


def test_older_generations_are_not_searched_but_count_as_traces(volume, write_bundle):
    write_bundle(volume.generation_path(1), 900)
    volume.generation_path(2).mkdir()
    assert volume.newest_valid(quarantine=True) is None
    assert volume.has_bad()
    write_bundle(volume.generation_path(2), 100)
    found = volume.newest_valid(quarantine=True)
    assert found is not None
    assert found.step == 100
    assert not volume.has_bad()


def test_runs_do_not_see_each_other(volume, write_bundle):
    write_bundle(volume.generation_path(1), 100)
    assert Volume(volume.root, "run-b").bundles() == []


# --- keeping -----------------------------------------------------------------------------------


def test_the_newest_k_are_kept(volume, generation, write_bundle):
    for step in (100, 200, 300, 400):
        write_bundle(generation, step)
    assert names(volume.keep(2, dry_run=True)) == steps(200, 100)
    assert names(volume.bundles()) == steps(400, 300, 200, 100)
    assert names(volume.keep(2)) == steps(200, 100)
    assert names(volume.bundles()) == steps(400, 300)
    assert volume.keep(2) == []
    assert sorted(path.name for path in generation.iterdir()) == steps(300, 400)


def test_older_generations_drain_as_the_present_one_fills(volume, write_bundle):
    for number, step in ((1, 100), (1, 200), (1, 300), (2, 150)):
        write_bundle(volume.generation_path(number), step)
    volume.keep(3)
    assert [(n, bundle.step) for n, bundle in volume.history()] == [(2, 150), (1, 300), (1, 200)]
    write_bundle(volume.generation_path(2), 250)
    write_bundle(volume.generation_path(2), 350)
    volume.keep(3)
    assert [(n, bundle.step) for n, bundle in volume.history()] == [(2, 350), (2, 250), (2, 150)]


def test_only_valid_bundles_count_and_bad_ones_stay_as_evidence(
    volume, generation, write_bundle, flip
):
    for step in (100, 200, 300, 400, 500):
        write_bundle(generation, step)
    (generation / "step-00000500" / ".metadata").unlink()  # seen by the quick check
    flip(generation / "step-00000400" / MANIFEST)  # unreadable
    flip(generation / "step-00000300" / "__0_0.distcp")  # known after a full verification
    volume.newest_valid(quarantine=False)
    assert names(volume.keep(1)) == steps(100)
    assert sorted(path.name for path in generation.iterdir()) == steps(200, 300, 400, 500)


def test_the_last_valid_bundle_is_never_removed(volume, generation, write_bundle):
    write_bundle(generation, 100)
    for step in (200, 300):
        (write_bundle(generation, step).path / ".metadata").unlink()
    assert volume.keep(1) == []
    for count in (0, -1):
        with pytest.raises(UsageError, match="at least 1"):
            volume.keep(count)
    verify(generation / "step-00000100")


def test_pinned_bundles_stay_until_they_are_unpinned(volume, generation, write_bundle):
    for step in (100, 200, 300):
        write_bundle(generation, step)
    volume.pin("step-00000100")
    assert volume.pins() == {(1, "step-00000100")}
    assert names(volume.keep(1)) == steps(200)
    assert names(volume.bundles()) == steps(300, 100)
    volume.unpin("step-00000100")
    assert names(volume.keep(1)) == steps(100)


def test_a_pin_belongs_to_one_generation(volume, write_bundle):
    for number in (1, 2):
        write_bundle(volume.generation_path(number), 100)
    volume.pin("step-00000100")
    volume.pin("step-00000100", generation=1)
    assert volume.pins() == {(1, "step-00000100"), (2, "step-00000100")}
    volume.unpin("step-00000100", generation=2)
    assert volume.pins() == {(1, "step-00000100")}


def test_only_what_exists_can_be_pinned_or_unpinned(volume, generation, write_bundle):
    write_bundle(generation, 100)
    with pytest.raises(UsageError, match="no bundle 'step-00000200'"):
        volume.pin("step-00000200")
    with pytest.raises(UsageError, match="no pinned bundle"):
        volume.unpin("step-00000100")


def test_a_removal_cut_short_never_leaves_half_a_bundle(
    volume, generation, write_bundle, monkeypatch
):
    for step in (100, 200):
        write_bundle(generation, step)

    def cut_short(path, **_):
        (path / ".metadata").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            volume.keep(1)
    assert names(volume.bundles()) == steps(200)
    assert not volume.has_bad()
    assert len(volume.sweep()) == 1
    assert [path.name for path in generation.iterdir()] == steps(200)


def test_a_bundle_with_its_files_held_open_can_be_removed(volume, generation, write_bundle):
    write_bundle(generation, 100)
    write_bundle(generation, 200)
    with (generation / "step-00000100" / ".metadata").open("rb") as reader:
        volume.keep(1)
        assert reader.read() == b"plan"


# --- sweeping -----------------------------------------------------------------------------------


def test_sweeping_removes_leftovers_and_spares_restores_in_the_making(
    volume, generation, write_bundle
):
    write_bundle(generation, 100)
    volume.pin("step-00000100")
    abandoned = BundleWriter(generation, "step-00000200", "checkpoint")
    (abandoned.path / "half").write_bytes(b"x")
    (volume.run_path / ".tmp-1").touch()
    (generation / ".pins" / ".tmp-2").touch()
    for name in (".stage-1", ".pull-1"):
        (volume.run_path / name).mkdir()
    removed = volume.sweep()
    assert sorted(path.name for path in removed) == sorted(
        [".tmp-1", ".tmp-2", abandoned.path.name]
    )
    assert sorted(path.name for path in volume.run_path.iterdir()) == [
        ".pull-1", ".stage-1", "gen-0001",
    ]  # fmt: skip
    assert volume.newest_valid(quarantine=True) is not None
    assert volume.pins()


def test_free_space_is_that_of_the_volume(volume, generation, write_bundle):
    write_bundle(generation, 100)
    assert 0 < volume.free() <= os.statvfs(volume.root).f_blocks * os.statvfs(volume.root).f_frsize


def test_what_is_bad_is_logged_once_and_in_one_line(volume, generation, write_bundle, flip, caplog):
    caplog.set_level(logging.INFO)
    flip(write_bundle(generation, 100).path / MANIFEST)
    volume.newest_valid(quarantine=True)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "is not valid" in line]) == 1
    assert all("\n" not in line for line in lines)

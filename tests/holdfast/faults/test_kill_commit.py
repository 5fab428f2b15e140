"""kill −9 at every boundary of a commit: before the rename nothing is there, after it everything.

SIGKILL keeps the page cache, so that the right things are *synced* is shown by the recorded order
of system calls in test_bundle.py.
"""

import signal

import pytest

from holdfast.bundle import verify

COMMIT = """
import sys
from pathlib import Path
from holdfast.bundle import BundleWriter
with BundleWriter(Path(sys.argv[1]), sys.argv[2], "checkpoint") as writer:
    (writer.path / "rng").mkdir()
    (writer.path / "rng" / "0.bin").write_bytes(b"state")
    (writer.path / "weights").write_bytes(b"w" * 100_000)
    writer.commit({"step": 200})
"""

MOVE = """
import sys
from pathlib import Path
from holdfast.bundle import commit_directory
commit_directory(Path(sys.argv[3]), Path(sys.argv[1]), sys.argv[2], "files", {}, move=True)
"""


@pytest.mark.parametrize(
    ("moment", "visible"),
    [
        ("files-written", False),
        ("manifest-written", False),
        ("before-rename", False),
        ("after-rename", True),
    ],
)
def test_a_save_killed_before_its_rename_is_invisible_and_after_it_is_whole(
    volume, write_bundle, run_python, moment, visible
):
    generation = volume.generation_path(1)
    write_bundle(generation, 100)

    killed = run_python(COMMIT, generation, "step-00000200", failpoint=f"commit.{moment}=kill")

    assert killed.returncode == -signal.SIGKILL
    newest = volume.newest_valid(quarantine=True)
    assert newest is not None
    assert newest.name == ("step-00000200" if visible else "step-00000100")
    assert not volume.has_bad()
    assert len(volume.bundles()) == 1 + visible

    again = "step-00000300" if visible else "step-00000200"
    done = run_python(COMMIT, generation, again)  # beside what the killed one left
    assert done.returncode == 0, done.stderr
    newest = volume.newest_valid(quarantine=True)
    assert newest is not None
    assert newest.name == again
    assert len(volume.sweep()) == 1 - visible
    assert not [path for path in generation.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("moment", ["files-written", "before-rename", "after-rename"])
def test_a_directory_that_is_moved_survives_a_kill_in_one_place_at_least(
    tmp_path, run_python, moment
):
    source = tmp_path / "source"
    source.mkdir()
    (source / "dump").write_bytes(b"d" * 1000)

    killed = run_python(MOVE, tmp_path / "out", "x", source, failpoint=f"commit.{moment}=kill")

    assert killed.returncode == -signal.SIGKILL
    assert (source / "dump").read_bytes() == b"d" * 1000
    if moment == "after-rename":
        verify(tmp_path / "out" / "x")
        return
    assert not (tmp_path / "out" / "x").exists()
    assert run_python(MOVE, tmp_path / "out", "x", source).returncode == 0
    assert verify(tmp_path / "out" / "x").manifest.size == 1000
    assert not source.exists()

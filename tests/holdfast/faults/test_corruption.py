"""Two hundred flipped bits and every other damage: refused with the file named, never loaded.

test_manifest.py flips every bit of a manifest, test_bundle.py looks at each kind of problem alone;
here they meet what a starting pod does: it falls back to the bundle before, or to the store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from holdfast.bundle import Bundle, verify
from holdfast.copies.pull import pull
from holdfast.copies.push import push
from holdfast.errors import InvalidBundle, Mismatch
from holdfast.manifest import MANIFEST
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import WORKLOAD

BLOCK = 4096
SIZES = {".metadata": 900, "__0_0.distcp": 3 * BLOCK, "__1_0.distcp": 3 * BLOCK, "rng/0.bin": 1}

Damage = Callable[[Path, Path], object]


@pytest.fixture
def bundles(volume: Volume, write_bundle: Callable[..., Bundle]) -> tuple[Bundle, Bundle]:
    """Step 100, and step 200 with the same files, of equal sizes and other bytes."""
    random = Random(5)
    older, newer = (
        write_bundle(
            volume.generation_path(1),
            step,
            {name: random.randbytes(size) for name, size in SIZES.items()},
        )
        for step in (100, 200)
    )
    return older, newer


def test_two_hundred_flipped_bits_are_all_refused_and_the_file_is_named(
    bundles: tuple[Bundle, Bundle], flip: Callable[..., None]
) -> None:
    """Over all files, and over the manifest half of the time. Shown to fail: without the comparison
    of `sha256` in `_check_file`, and without the canonical form in `Manifest.parse`."""
    random = Random(2026)
    newest = bundles[1]
    for number in range(200):
        name = MANIFEST if number % 2 else random.choice(list(SIZES))
        bit = random.randrange((newest.path / name).stat().st_size * 8)
        flip(newest.path / name, bit)
        with pytest.raises(InvalidBundle) as refused:
            verify(newest.path)
        assert [problem.partition(":")[0] for problem in refused.value.problems] == [name]
        flip(newest.path / name, bit)
    assert verify(newest.path) == newest


def in_block(data: bytes) -> Damage:
    """Overwrite the second block of a file."""

    def damage(bundle: Path, _: Path) -> None:
        with (bundle / "__0_0.distcp").open("r+b") as file:
            file.seek(BLOCK)
            file.write(data)

    return damage


def hole(bundle: Path, _: Path) -> None:
    """As a file system that lost a block leaves it: of the right size, with nothing in it."""
    path = bundle / "__0_0.distcp"
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data[:BLOCK])
        file.truncate(2 * BLOCK)
        file.seek(2 * BLOCK)
        file.write(data[2 * BLOCK :])


def cut(to: int, name: str = "__0_0.distcp") -> Damage:
    return lambda bundle, _: os.truncate(bundle / name, to)


def swap(bundle: Path, _: Path) -> None:
    one, two = bundle / "__0_0.distcp", bundle / "__1_0.distcp"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def of_another_step(name: str) -> Damage:
    return lambda bundle, older: shutil.copy(older / name, bundle / name)


def replace_by_link(bundle: Path, older: Path) -> None:
    (bundle / "__0_0.distcp").unlink()
    (bundle / "__0_0.distcp").symlink_to(older / "__0_0.distcp")


def replace_by_pipe(bundle: Path, _: Path) -> None:
    (bundle / "__0_0.distcp").unlink()
    os.mkfifo(bundle / "__0_0.distcp")


def add(bundle: Path, _: Path) -> None:
    (bundle / "__2_0.distcp").write_bytes(b"more")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(in_block(bytes(BLOCK)), "__0_0.distcp", id="a block of zeros"),
        pytest.param(in_block(b"\xff" * BLOCK), "__0_0.distcp", id="a block of ones"),
        pytest.param(hole, "__0_0.distcp", id="a hole"),
        pytest.param(cut(0), "__0_0.distcp", id="cut to nothing"),
        pytest.param(cut(BLOCK), "__0_0.distcp", id="cut at a block"),
        pytest.param(cut(3 * BLOCK - 1), "__0_0.distcp", id="cut by a byte"),
        pytest.param(cut(3 * BLOCK + 1), "__0_0.distcp", id="a byte too long"),
        pytest.param(cut(0, MANIFEST), MANIFEST, id="an empty manifest"),
        pytest.param(cut(100, MANIFEST), MANIFEST, id="a cut manifest"),
        pytest.param(swap, "__0_0.distcp", id="two files swapped"),
        pytest.param(of_another_step("__1_0.distcp"), "__1_0.distcp", id="a shard of another step"),
        pytest.param(of_another_step(".metadata"), ".metadata", id="metadata of another step"),
        pytest.param(of_another_step(MANIFEST), MANIFEST, id="the manifest of another bundle"),
        pytest.param(lambda b, _: (b / ".metadata").unlink(), ".metadata", id="a missing file"),
        pytest.param(lambda b, _: (b / MANIFEST).unlink(), MANIFEST, id="a missing manifest"),
        pytest.param(add, "__2_0.distcp", id="an extra file"),
        pytest.param(replace_by_link, "__0_0.distcp", id="a link"),
        pytest.param(replace_by_pipe, "__0_0.distcp", id="a pipe"),
    ],
)
def test_damage_is_named_set_aside_and_the_bundle_before_is_used(
    volume: Volume, bundles: tuple[Bundle, Bundle], damage: Damage, named: str
) -> None:
    """Shown to fail: with `quick=True` in `Volume.newest_valid`, which finds but half of these."""
    older, newer = bundles
    damage(newer.path, older.path)

    assert volume.newest_valid(quarantine=True) == older

    (aside,) = volume.quarantined()
    assert f"{named}: " in aside.with_name(f"{aside.name}.txt").read_text()
    assert not newer.path.exists()


@pytest.mark.parametrize("name", list(SIZES))
def test_damage_in_the_store_is_refused_by_a_pull_with_the_file_named(
    volume: Volume,
    bundles: tuple[Bundle, Bundle],
    catalog: Catalog,
    store_directory: Path,
    flip: Callable[..., None],
    tmp_path: Path,
    name: str,
) -> None:
    """Shown to fail: without the comparison at the end of `read_remote`."""
    push(volume, catalog, WORKLOAD)
    snapshot = catalog.snapshots(WORKLOAD)[0]
    path = store_directory / snapshot.bundles[0].data / name
    random = Random(name)
    for _ in range(5):
        bit = random.randrange(SIZES[name] * 8)
        flip(path, bit)
        with pytest.raises(Mismatch, match=rf"step-00000200, {name} in the store"):
            pull(snapshot, catalog, tmp_path / "new")
        flip(path, bit)
    assert not list((tmp_path / "new").glob("step-*"))

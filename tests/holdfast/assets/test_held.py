"""An application that was restored stays on what was restored, until its alias moves after that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.assets.add import add
from holdfast.assets.aliases import history
from holdfast.assets.get import Got, get_on_volume
from holdfast.assets.promote import promote
from holdfast.assets.versions import resolve
from holdfast.copies.followed import hold
from holdfast.copies.push import push
from holdfast.recovery.recover import Start
from holdfast.recovery.refill import pull_if_empty
from holdfast.recovery.restore import stage, switch, switch_to_generation
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from testkit.stores import OWNER

WORKLOAD = "predictor"
ALIAS = "churn@production"


class Application:
    """A volume, and the store that its model and its backups are in. Every command opens its own
    catalog, as processes do."""

    def __init__(self, catalog: Catalog, fill: Callable[..., Path], root: Path) -> None:
        self._store, self._fill = catalog.store, fill
        self.volume = Volume(root / "application", "serving", "model")
        self.volume.root.mkdir()

    @property
    def catalog(self) -> Catalog:
        return Catalog(self._store, OWNER)

    def promote(self, version: str, *, again: bool = False) -> None:
        folder = self._fill(f"m{version}", {"w": version.encode()})
        add(self.catalog, "model", folder, "churn", version)
        promote(self.catalog, resolve(self.catalog, f"churn:{version}"), "production", again=again)

    def start(self, wanted: str = ALIAS) -> Got:
        """What a starting pod does: `pull --if-empty`, then `get --on-volume`."""
        pull_if_empty(self.volume, self.catalog, WORKLOAD, Start.AUTO)
        return get_on_volume(self.catalog, wanted, self.volume)

    def backup(self) -> str:
        return push(self.volume, self.catalog, WORKLOAD).snapshot

    def restore(self, snapshot: str) -> None:
        made = stage(self.volume, self.catalog, self.catalog.read(WORKLOAD, snapshot))
        switch(self.volume, made.id)

    def a_minute_passes(self) -> None:
        """The present generation was put there a minute ago: what comes now is later."""
        present = self.volume.generation_path(self.volume.present() or 1)
        hold(present, datetime.now(UTC) - timedelta(minutes=1))

    @property
    def serves(self) -> str:
        return (self.volume.bundles()[0].path / "w").read_text()


@pytest.fixture
def application(catalog: Catalog, fill: Callable[..., Path], tmp_path: Path) -> Application:
    """It was started with version 1, backed up, and started with version 2."""
    made = Application(catalog, fill, tmp_path)
    made.promote("1")
    assert made.start().copied
    made.backup()
    made.promote("2")
    assert made.start().copied
    return made


@pytest.fixture
def restored(application: Application) -> Application:
    """And then restored to version 1."""
    newest, *_ = application.catalog.snapshots(WORKLOAD)
    application.restore(newest.id)
    return application


def test_a_restored_application_stays_on_what_was_restored(restored: Application) -> None:
    for _ in range(2):
        got = restored.start()
        assert (got.copied, restored.serves) == (False, "1")
        assert got.held is not None and str(got.version) == "churn:2"


def test_a_promotion_after_the_restore_is_followed_and_later_ones_too(
    restored: Application,
) -> None:
    restored.start()
    restored.a_minute_passes()
    for version in ("3", "4"):
        restored.promote(version)
        assert restored.start().copied
        assert restored.serves == version


def test_a_promotion_that_no_pod_had_seen_before_the_restore_is_not_followed(
    application: Application,
) -> None:
    application.promote("3")
    application.restore(application.catalog.snapshots(WORKLOAD)[0].id)

    assert application.start().held and application.serves == "1"


def test_the_version_that_the_alias_means_already_is_promoted_again(restored: Application) -> None:
    restored.promote("2")
    assert restored.start().held and restored.serves == "1"
    assert len(history(restored.catalog.store, "models", "churn")) == 2

    restored.a_minute_passes()
    restored.promote("2", again=True)

    assert len(history(restored.catalog.store, "models", "churn")) == 3
    assert restored.start().copied and restored.serves == "2"


def test_the_undo_of_the_restore_stays_too(restored: Application) -> None:
    restored.start()
    switch_to_generation(restored.volume, 2)
    assert restored.start().held is None and restored.serves == "2", "what the alias means"

    switch_to_generation(restored.volume, 1)
    assert restored.start().held and restored.serves == "1"


def test_a_restore_of_what_the_alias_means_is_no_other_model(restored: Application) -> None:
    restored.a_minute_passes()
    restored.promote("1")

    got = restored.start()

    assert (got.copied, got.held, restored.serves) == (False, None, "1")


@pytest.mark.parametrize("wanted", ["churn@staging", "churn:2", "churn"])
def test_other_settings_are_followed_whenever_the_restore_was(
    restored: Application, wanted: str
) -> None:
    version = resolve(restored.catalog, "churn:2")
    promote(restored.catalog, version, "staging")
    restored.start()
    restored.restore(restored.catalog.snapshots(WORKLOAD)[0].id)
    assert restored.start().held

    assert restored.start(wanted).copied
    assert restored.serves == "2"


@pytest.mark.parametrize("wanted", ["churn:2", "churn"])
def test_a_version_without_an_alias_is_no_reason_to_leave_what_was_restored(
    restored: Application, wanted: str
) -> None:
    assert restored.start(wanted).copied, "other settings"
    restored.restore(restored.catalog.snapshots(WORKLOAD)[0].id)

    assert restored.start(wanted).held and restored.serves == "1"


def test_a_volume_that_is_lost_after_a_restore_is_filled_with_what_was_restored(
    restored: Application,
) -> None:
    restored.start()
    restored.backup()
    shutil.rmtree(restored.volume.root)
    restored.volume.root.mkdir()

    assert restored.start().held and restored.serves == "1"
    restored.a_minute_passes()
    restored.promote("3")
    assert restored.start().copied and restored.serves == "3"


def test_a_backup_of_an_application_that_was_not_restored_holds_nothing(
    application: Application,
) -> None:
    application.backup()

    assert [dict(one.labels) for one in application.catalog.snapshots(WORKLOAD)] == [{}, {}]


def test_a_restored_model_that_is_damaged_comes_back_from_its_backup(
    restored: Application, flip: Callable[..., None]
) -> None:
    restored.backup()
    flip(restored.volume.bundles()[0].path / "w")

    assert restored.start().held and restored.serves == "1"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"model": 3}', b'{"held": 5}'])
def test_a_record_that_is_damaged_counts_as_none(restored: Application, data: bytes) -> None:
    (restored.volume.run_path / ".model.json").write_bytes(data)
    assert restored.start().held

    (restored.volume.generation_path(3) / ".stage.json").write_bytes(data)
    assert restored.start().copied and restored.serves == "2"

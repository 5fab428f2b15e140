"""What all that is protected has: a schedule of backups, a volume, a way back."""

from typing import Literal

from pydantic import Field, model_validator

from infra.settings.fields import AbsolutePath, Cron, Model, Name, size_bytes, size_text
from infra.settings.store import Retention
from infra.settings.volumes import Volume

MINUTE, HOUR, DAY = 60, 3600, 86400

Start = Literal["auto", "fresh", "require"]

#: A Kanister phase must stay under four hours, where the kubelet cuts its log stream.
LONGEST_BACKUP = 3 * HOUR

#: Paths in the trainer's container that are ours.
RESERVED_PATHS = ("/tmp", "/dev/shm", "/var/lib/holdfast", "/var/run/secrets")


class Schedule(Model):
    """When something is backed up, and which of its snapshots stay."""

    schedule: Cron = "*/15 * * * *"
    """When to back up, in UTC."""
    backup_timeout: int = Field(default=HOUR, ge=MINUTE, le=LONGEST_BACKUP)
    """Seconds that one backup, restore or verification may take."""
    retention: Retention = Retention()
    """Which snapshots stay in the store."""
    grace: int = Field(default=DAY, ge=0)
    """Seconds between marking data in the store for deletion and deleting it."""

    @model_validator(mode="after")
    def _grace_outlives_a_backup(self) -> "Schedule":
        if self.grace < 2 * self.backup_timeout:
            raise ValueError(
                f"grace {self.grace} would delete what a backup of {self.backup_timeout} s still "
                f"names: use at least twice backup_timeout, {2 * self.backup_timeout}"
            )
        return self


class Protected(Schedule):
    """What every workload has: a schedule of backups, a way back; and a volume."""

    namespace: Name = "training"
    """The namespace of its objects; made by the stack, Pod Security ``restricted``, unless a claim
    of kind ``existing-claim`` is in it."""
    mount_path: AbsolutePath = "/var/ml_model"
    """Where the volume appears in its container."""
    start: Start = "auto"
    """With nothing on the volume and nothing in the store: ``auto`` and ``fresh`` start anew,
    ``require`` stops."""
    push: Literal["newest", "all"] = "newest"
    """Which bundles a backup copies."""

    @model_validator(mode="after")
    def _mount_path_is_free(self) -> "Protected":
        for path in RESERVED_PATHS:
            if f"{self.mount_path}/".startswith(f"{path}/") or path.startswith(
                f"{self.mount_path}/"
            ):
                raise ValueError(
                    f"mount_path {self.mount_path} overlaps {path}, which Holdfast uses: "
                    "use another, such as /var/ml_model"
                )
        return self


def room(volume: Volume, keep: int, pinned: int, bundle_size: str | None) -> None:
    """Refuse a volume that is too small for K kept bundles, the pinned ones, one that is being
    saved and one that a restore stages. None: how large they are is not known."""
    if bundle_size is None:
        return
    count = keep + pinned + 1 + 1
    needed = count * size_bytes(bundle_size)
    if size_bytes(volume.size) < needed:
        raise ValueError(
            f"volume of {volume.size} cannot hold {count} bundles of {bundle_size} "
            f"(keep {keep}, pinned {pinned}, one saving, one staged): "
            f"use at least {size_text(needed)}, or keep fewer"
        )

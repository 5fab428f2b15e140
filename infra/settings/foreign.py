"""Pods and a claim of someone else's, protected by settings: their Job and queue, our backups."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from infra.settings.fields import Label, Model, ObjectName, RunName, Size
from infra.settings.protection import Protected, room
from infra.settings.volumes import ExistingClaim


class Owner(Model):
    """What owns the pods, and is not owned itself: a restore pauses it, or Kueue's Workload for
    it."""

    kind: Literal["job", "jobset", "trainjob", "deployment", "statefulset"]
    """Its kind."""
    name: ObjectName | None = None
    """Its name. Default: it is found by ``label``."""
    label: Label | None = None
    """A label that it has, ``KEY=VALUE``; of all that have it, one alone may not have ended.
    Default, without a name: ``holdfast.dev/workload=<the workload's name>``."""

    @model_validator(mode="after")
    def _one_way_to_find_it(self) -> "Owner":
        if self.name is not None and self.label is not None:
            raise ValueError(
                f"name {self.name} and label {self.label} are given: give one of them, or neither"
            )
        return self


class ForeignPods(Protected):
    """A claim and pods of someone else's. The stack makes none of them, and protects both."""

    kind: Literal["protected"]
    """Selects this kind: someone else makes pods and claim."""
    volume: ExistingClaim
    """The claim where the pods keep their bundles."""
    owner: Owner
    """What a restore pauses."""
    run: RunName
    """The run whose bundles are backed up: the name that the pods give to ``holdfast commit``,
    ``watch`` or one of the integrations. A new name is a new start from step 0."""
    keep: int = Field(default=3, ge=1, le=1000)
    """Bundles that stay on the volume, for pods that read the ConfigMap."""
    bundle_size: Size | None = None
    """What one bundle takes, such as ``2Gi``. With it, the volume's size is checked."""
    service_account: ObjectName | None = None
    """Target eks: the ServiceAccount of the pods, which gets the right to read the backups.
    Required there, unless the store has a Secret."""

    @model_validator(mode="after")
    def _space_suffices(self) -> "ForeignPods":
        room(self.volume, self.keep, 0, self.bundle_size)
        return self


def without_a_reader(
    foreign: Mapping[str, ForeignPods], own: Mapping[str, Protected]
) -> Iterator[str]:
    """What keeps pods from the backups where AWS knows them by their account: it has one role.

    Args:
        foreign: by name.
        own: what the stack runs, whose accounts have the workloads' names.
    """
    taken = {(each.namespace, name): name for name, each in own.items()}
    for name, pods in foreign.items():
        where, account = f"workloads.{name}.service_account", pods.service_account
        if account is None:
            yield (
                f"{where}: missing: name the ServiceAccount of its pods, which then may read the "
                "backups"
            )
        elif (other := taken.setdefault((pods.namespace, account), name)) != name:
            yield (
                f"{where}: {account} is the account of workload {other} too, and reads the backups "
                "of one: give the pods of each an account of their own"
            )

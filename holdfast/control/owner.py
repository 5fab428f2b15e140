"""What a restore pauses: the Job or the Deployment that owns a workload's pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

#: The Blueprint sets it in the patch that pauses, and removes it in the one that resumes. So what a
#: restore left paused differs from what a person paused.
RESTORE_ANNOTATION = "holdfast.dev/restore"


@dataclass(frozen=True)
class Seen:
    """An owner as the API server shows it, as far as a resume needs it."""

    #: the snapshot for which a restore paused it; empty when none did
    restoring: str
    #: deleted, and waiting for its pods to end
    deleting: bool
    #: of the Blueprint's action ``resume``
    options: Mapping[str, str]


class Owner(Protocol):
    """A Job or a Deployment by its name."""

    @property
    def title(self) -> str:
        """Kind and name, for messages."""

    @property
    def paused(self) -> str:
        """What a restore does to it, for messages: suspended, or scaled to zero."""

    def look(self) -> Seen | None:
        """What it is now; None if there is none. Raises KubernetesError with status 403 where it
        may not be seen."""

"""Who may write to a run, and when a restore may switch it: never both.

A restore pauses what owns the trainer, but a pause can be undone behind its back (a queue's
controller starts the Job again), and a switch can come late. So the volume itself keeps them apart,
whoever owns the pods and whatever Kubernetes says:

* **A starting pod voids every stage.** It renames ``.stage-<id>`` to ``.void-<id>`` before it looks
  for its bundle. The switch renames the same directory, so one of the two comes first: either the
  pod finds the new generation, or there is nothing left to switch to.
* **A writer has the run open**: a shared lock on ``.writers`` until its process ends, however that
  ends. The switch needs it alone, and refuses while it is shared.
* **A writer that was left behind stops.** Before each save it looks whether its generation is still
  the present one. This holds also where the file system has no locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from holdfast import durable
from holdfast.errors import HoldfastError
from holdfast.store.base import NO_LOCKS
from holdfast.volume import Volume

WRITERS = ".writers"  # an empty file in the run's directory
STAGE = ".stage-"
VOID = ".void-"

#: seconds that a switch waits for a writer whose process is just ending
PATIENCE = 5.0


class WriterPresent(HoldfastError):
    """A process has the run open for writing, so nothing may be switched."""


class StageVoid(HoldfastError):
    """A pod started after the snapshot was staged, so it may not be switched to."""


class Superseded(HoldfastError):
    """A restore made another generation the present one. A new start goes on from there."""


class Writer:
    """This process may write to the run until `close`, or until it ends. Any number may at once.

    Create it before the present generation is looked up. Raises OSError where the run's directory
    cannot be written.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._descriptor, self.locked = _open(volume, fcntl.LOCK_SH, None)

    def require_present(self, generation: int) -> None:
        """Raise Superseded if `generation` is not the present one any more."""
        require_present(self._volume, generation)

    def close(self) -> None:
        """Writing is over. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def no_writers(volume: Volume, patience: float = PATIENCE) -> Iterator[bool]:
    """Hold the run while nobody else can write to it. Yields False where there are no locks.

    Raises WriterPresent if a writer is there and has not gone in ``patience`` seconds.
    """
    descriptor, locked = _open(volume, fcntl.LOCK_EX, patience)
    try:
        yield locked
    finally:
        os.close(descriptor)


def void_stages(volume: Volume) -> list[str]:
    """Take from every stage of the run that anyone may switch to it; returns their IDs.

    A pod that starts calls it before it looks for its bundle. What is voided stays on the volume
    until the next stage. Raises OSError if a stage could not be voided: start again then.
    """
    voided = []
    for stage in sorted(volume.run_path.glob(f"{STAGE}*")):
        name = stage.name.removeprefix(STAGE)
        try:
            durable.rename_durably(stage, stage.with_name(f"{VOID}{name}"))
        except FileNotFoundError:
            continue  # switched to, or voided by another pod
        except OSError as error:
            if error.errno == errno.EROFS:
                continue  # then nobody can switch to it either
            raise
        voided.append(name)
    return voided


def require_present(volume: Volume, generation: int) -> None:
    """Raise Superseded if `generation` is not the present one of the run any more."""
    present = volume.present()
    if present is not None and present > generation:
        raise Superseded(
            f"run '{volume.run}': generation {present} is the present one since a restore, and this"
            f" process goes on from generation {generation}: nothing more is saved; start it again,"
            f" and it goes on from generation {present}"
        )


def _open(volume: Volume, how: int, patience: float | None) -> tuple[int, bool]:
    """The descriptor of ``.writers``, and whether it is locked."""
    durable.make_directories(volume.run_path)
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(volume.run_path / WRITERS, flags, 0o666)
    end = None if patience is None else time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, how | (0 if end is None else fcntl.LOCK_NB))
                return descriptor, True
            except BlockingIOError:
                if end is not None and time.monotonic() >= end:
                    raise WriterPresent(
                        f"run '{volume.run}' is open for writing: a trainer still runs, so nothing"
                        " was switched; stop it (suspend its Job, or what owns that), wait until"
                        " its pods are gone, then try again"
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                return descriptor, False
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise

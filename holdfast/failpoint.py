"""Fault injection: named points at which a test, or the demo, makes this process die or fail.

`HOLDFAST_FAILPOINT=commit.before-rename=kill` kills this process with SIGKILL right before a bundle
gets its name. The full form is `name[@N]=action[,name[@N]=action…]`: the action happens the N-th
time (default 1) that this process reaches the point. Actions:

- `kill`: SIGKILL, as from the kernel's out-of-memory killer
- `hold:PATH`: create the file PATH, which holds the process ID, then wait to be killed, or until
  someone removes the file: a step that takes as long as a test wants
- `raise`: OSError EIO, as from a failing disk
- `enospc`: OSError ENOSPC, as from a full disk

When the variable is unset, a failpoint costs one lookup in the environment.
"""

import errno
import os
import signal
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

from holdfast.errors import UsageError

ENVIRONMENT = "HOLDFAST_FAILPOINT"

FAILPOINTS: frozenset[str] = frozenset(
    {
        # a bundle is written
        "save.shard-written",
        "commit.files-written",
        "commit.manifest-written",
        "commit.before-rename",
        "commit.after-rename",
        # a dataset or model is added, an alias moved
        "add.done",
        "promote.record-written",
        # volume → store
        "push.file-uploaded",
        "push.manifest-uploaded",
        "push.before-snapshot",
        "push.after-snapshot",
        "push.references-written",
        "stream.file-uploaded",
        "stream.manifest-uploaded",
        # store → volume
        "pull.file-written",
        "pull.before-rename",
        "pull.after-rename",
        # restore to a point in time
        "stage.before-rename",
        "stage.after-rename",
        "switch.before-rename",
        "switch.after-rename",
        # a pipeline: its database and its artifacts
        "pipeline.dumped",
        "pipeline.artifact-copied",
        "pipeline.verified",
        "pipeline.artifact-restored",
        "pipeline.artifacts-restored",
        "pipeline.before-commit",
        "pipeline.after-commit",
        # retention
        "prune.snapshot-dropped",
        "prune.tombstoned",
        "prune.manifest-deleted",
        "prune.data-deleted",
    }
)

_LOOK_SECONDS = 0.05
_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Mark the point `name`. Does nothing unless the environment names it."""
    wanted = os.environ.get(ENVIRONMENT)
    if not wanted:
        return
    plan = _parse(wanted)
    if name not in FAILPOINTS:
        raise UsageError(f"failpoint {name!r} is not registered: add it to holdfast.failpoint")
    _passed[name] += 1
    at, action = plan.get(name, (0, ""))
    if _passed[name] == at:
        _act(name, action)


@lru_cache(maxsize=8)
def _parse(text: str) -> dict[str, tuple[int, str]]:
    plan = {}
    for item in text.split(","):
        point, _, action = item.strip().partition("=")
        name, _, count = point.partition("@")
        if name not in FAILPOINTS:
            known = ", ".join(sorted(FAILPOINTS))
            raise UsageError(f"{ENVIRONMENT}: unknown failpoint {name!r}: use one of {known}")
        if not (count or "1").isdecimal() or int(count or 1) < 1:
            raise UsageError(f"{ENVIRONMENT}: invalid count {count!r} in {item!r}: use 1 or more")
        if action not in {"kill", "raise", "enospc"} and not action.startswith("hold:/"):
            raise UsageError(
                f"{ENVIRONMENT}: unknown action {action!r} for {name}: "
                "use kill, hold:/PATH, raise or enospc"
            )
        plan[name] = (int(count or 1), action)
    return plan


def _act(name: str, action: str) -> None:
    match action.partition(":"):
        case "kill", _, _:
            os.kill(os.getpid(), signal.SIGKILL)
        case "hold", _, target:
            path = Path(target)
            draft = path.with_name(f".tmp-{path.name}-{os.getpid()}")
            draft.write_text(f"{os.getpid()}\n")
            draft.replace(path)
            while path.exists():
                time.sleep(_LOOK_SECONDS)
        case "enospc", _, _:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (failpoint {name})")
        case _:
            raise OSError(errno.EIO, f"{os.strerror(errno.EIO)} (failpoint {name})")

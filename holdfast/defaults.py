"""What the options of the command line start from, and the choices that they offer.

One home for what the command line, the library below it and its users repeat. The standard library
is all that it imports, so that `holdfast --help` stays quick.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum


class Size(int):
    """A number of bytes that help shows as it is typed: 256MiB."""

    def __str__(self) -> str:
        return f"{self // 2**20}MiB"


#: bytes that transfers may hold in memory at once
MEMORY = Size(256 * 2**20)
#: the same for `doctor`, which moves next to nothing
DOCTOR_MEMORY = Size(64 * 2**20)
#: between marking data as unused and deleting it; a push has half of it for its snapshot
GRACE = timedelta(days=1)
#: `doctor` warns when the latest snapshot is older
MAX_AGE = timedelta(days=1)
#: the kind of the bundles that a run goes on from: what HOLDFAST_KIND says otherwise
KIND = "checkpoint"
#: workloads of a store that are no one's: what all share, and the state of the pipeline
DATASETS, MODELS, PIPELINE = RESERVED = ("datasets", "models", "pipeline")
#: by the kind of a bundle, the workload that keeps its versions for all
SHARED = {"dataset": DATASETS, "model": MODELS}
#: valid bundles that stay on a volume
KEEP = 3
#: seconds that one ActionSet may take
ACTION_SECONDS = 3600
#: where Kanister's controller runs, and the Blueprint that it runs there
KANISTER_NAMESPACE, BLUEPRINT = "kanister", "checkpoints"
#: the Blueprint that pauses by a task of its own what Kanister's functions cannot
TOPMOST = "topmost"


class Select(StrEnum):
    """Which bundles of the present generation a push copies."""

    NEWEST = "newest"
    ALL = "all"

"""What happened in a demo of the pipeline: the data of its report."""

from dataclasses import dataclass, field
from pathlib import Path

from sandbox.demo.promises import Promise


@dataclass
class Row:
    """One line of the final table; bytes of the database's and the artifacts' volumes."""

    event: str
    seconds: float
    bytes: int | None = None
    things: int | None = None


@dataclass
class PipelineStory:
    """Everything that the report shows."""

    stack: str
    promises: list[Promise] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    #: how many of each kind: in the older snapshot, in the newer one, after each restore
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    #: what was taken when, as PNG files
    pictures: dict[str, Path] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        return all(promise.kept for promise in self.promises)

"""What happened in a demo: the data of its report."""

from dataclasses import dataclass, field

from sandbox.demo.observe import Backup, Line
from sandbox.demo.promises import Promise


@dataclass
class Row:
    """One line of the final table. Sizes in bytes, times in seconds."""

    event: str
    step: int
    steps_lost: int
    seconds: float
    bytes: int | None = None
    transfer_seconds: float | None = None


@dataclass
class Story:
    """Everything that the report shows."""

    stack: str
    promises: list[Promise] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    #: from when to when nothing was trained, and why (Unix seconds)
    marks: list[tuple[float, float, str]] = field(default_factory=list)
    undisturbed: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    backups: list[Backup] = field(default_factory=list)
    fingerprint: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        return all(promise.kept for promise in self.promises)

"""Find the state to go on from, and never start again from step 0 by accident.

The search is that of every framework (`holdfast.integrations.run`); here it is reported as this
training reports, and ends as this training ends.
"""

from dataclasses import dataclass

from holdfast.bundle import Bundle
from holdfast.errors import HoldfastError, InvalidBundle, RecoveryNeeded, RecoveryStopped
from holdfast.integrations.run import Run
from training.config import Config
from training.metrics import Metrics
from training.outcome import Outcome
from training.ranks import Ranks


@dataclass(frozen=True)
class Recovery:
    """Resume from `bundle`, or start at step 0 if it is None; end at once with `outcome` if set."""

    reason: str
    bundle: Bundle | None = None
    outcome: Outcome | None = None
    seconds: float = 0.0  # that loading took


class ReportedRun(Run):
    """A run that tells the metrics what it finds."""

    def __init__(self, config: Config, ranks: Ranks, metrics: Metrics) -> None:
        super().__init__(
            config.volume,
            config.run,
            config.keep,
            start=config.start,
            decision=config.decision,
            ranks=ranks,
        )
        self._metrics = metrics

    def say(self, text: str) -> None:
        self._metrics.say(text)

    def set_aside(self, damage: InvalidBundle) -> None:
        super().set_aside(damage)
        self._metrics.add("quarantined_total")
        self._metrics.event(
            "quarantine", bundle=damage.path.name, reason="; ".join(damage.problems)
        )


def recover(run: Run, shape: str) -> Recovery:
    """Decide, on all ranks alike, what to resume from. Nothing is loaded yet."""
    try:
        bundle, reason = run.find()
    except RecoveryStopped as stopped:
        return Recovery(str(stopped), outcome=Outcome.REFUSED)
    except RecoveryNeeded as needed:
        return Recovery(str(needed), outcome=Outcome.RECOVER)
    except HoldfastError as problem:
        return Recovery(str(problem), outcome=Outcome.RETRY)
    held = bundle.manifest.labels.get("model") if bundle else shape
    if bundle and held != shape:
        reason = f"bundle {bundle.name} holds '{held}', the settings ask for '{shape}'"
        remedy = "change them back, or give the new model a new run name"
        return Recovery(f"{reason}: {remedy}", outcome=Outcome.REFUSED)
    return Recovery(reason, bundle)

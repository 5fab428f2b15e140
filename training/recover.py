"""Find the state to go on from, and never start again from step 0 by accident.

All ranks verify the newest bundle of the present generation together, each its share of the files,
and load it only when every byte is right; a bundle that fails is quarantined and the one before is
tried. Where none is left, `holdfast.recovery.recover` decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from holdfast.bundle import Bundle, verify
from holdfast.errors import InvalidBundle
from holdfast.integrations.ranks import check_share
from holdfast.labels import is_healthy
from holdfast.manifest import FileEntry
from holdfast.recovery.recover import Action, Pulled, Start, VolumeState, decide_in_trainer
from holdfast.volume import Volume
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


def recover(config: Config, volume: Volume, ranks: Ranks, metrics: Metrics) -> Recovery:
    """Decide, on all ranks alike, what to resume from. Nothing is loaded yet."""
    bundle = _newest_valid(volume, ranks, metrics)
    if bundle is None:
        return ranks.broadcast_from_rank0(
            lambda: without_a_bundle(_state(volume), config.start, Pulled.told_by(config.decision))
        )
    shape = bundle.manifest.labels.get("model")
    if shape != config.shape:
        reason = f"bundle {bundle.name} holds '{shape}', the settings ask for '{config.shape}'"
        remedy = "change them back, or give the new model a new run name"
        return Recovery(f"{reason}: {remedy}", outcome=Outcome.REFUSED)
    return Recovery(f"resuming from {bundle.name}", bundle)


def without_a_bundle(volume: VolumeState, start: Start, pulled: Pulled) -> Recovery:
    """What to do on a volume without a valid bundle in its present generation."""
    decision = decide_in_trainer(volume, pulled, start)
    outcome = {Action.STOP: Outcome.REFUSED, Action.RETRY: Outcome.RETRY}.get(decision.decision)
    return Recovery(decision.reason, outcome=outcome)


def split_files(files: Sequence[FileEntry], ranks: int) -> list[list[FileEntry]]:
    """The files divided among ranks so that each has about as many bytes to hash."""
    parts: list[list[FileEntry]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for entry in sorted(files, key=lambda entry: entry.size, reverse=True):
        lightest = loads.index(min(loads))
        parts[lightest].append(entry)
        loads[lightest] += entry.size
    return parts


def _newest_valid(volume: Volume, ranks: Ranks, metrics: Metrics) -> Bundle | None:
    while bundle := ranks.broadcast_from_rank0(lambda: _newest_complete(volume, metrics)):
        mine = split_files(bundle.manifest.files, ranks.world_size)[ranks.rank]
        found = ranks.gather(check_share(bundle, mine))
        faults = [fault for _, fault in found if fault]
        if faults:
            ranks.broadcast_from_rank0(partial(volume.pass_over, bundle.path, faults[0]))
            continue
        problems = [problem for of_rank, _ in found for problem in of_rank]
        if not problems:
            return bundle
        damage = InvalidBundle(bundle.path, problems)
        ranks.broadcast_from_rank0(partial(set_aside, volume, damage, metrics))
    return None


def _newest_complete(volume: Volume, metrics: Metrics) -> Bundle | None:
    """The newest bundle whose manifest, files and sizes look right. On rank 0."""
    for damage in volume.damaged():
        if volume.usable(damage.path):
            set_aside(volume, damage, metrics)
    for bundle in volume.bundles():
        if not volume.usable(bundle.path):
            continue
        if is_healthy(bundle.manifest.labels) is False:
            metrics.say(f"bundle {bundle.name} is marked as not healthy: it is not used")
            continue
        try:
            return verify(bundle.path, quick=True)
        except InvalidBundle as damage:
            set_aside(volume, damage, metrics)
        except OSError as fault:
            volume.pass_over(bundle.path, fault)
    volume.raise_unreadable()
    return None


def set_aside(volume: Volume, damage: InvalidBundle, metrics: Metrics) -> None:
    metrics.say(f"{damage}: {volume.set_aside(damage)}")
    metrics.add("quarantined_total")
    metrics.event("quarantine", bundle=damage.path.name, reason="; ".join(damage.problems))


def _state(volume: Volume) -> VolumeState:
    """Without a bundle to use: one that is there all the same is no reason for step 0."""
    return VolumeState.BAD if volume.has_bad() or volume.bundles() else VolumeState.NONE

"""The training itself: settings, then components, then the loop."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

from holdfast import durable
from holdfast.errors import InvalidBundle
from holdfast.integrations.dcp import Saved, Saver
from holdfast.volume import Volume
from training import lineage, resume
from training.config import Config, WhenBusy
from training.data import Corpus
from training.fingerprint import as_labels, differences, fingerprint
from training.metrics import Metrics
from training.outcome import Outcome
from training.ranks import Ranks, joined
from training.recover import Recovery, ReportedRun, recover
from training.state import State
from training.stop import Stop
from training.tracking import Facts, Tracking


def train(config: Config, stop: Stop) -> Outcome:
    """Train on this rank until the last step, a stop, or a reason not to start at all."""
    port = config.port if os.environ["LOCAL_RANK"] == "0" else None
    metrics = Metrics(os.environ["RANK"] == "0", config.metrics, port)
    with joined(config) as ranks:
        path = Volume(config.volume, config.run).run_path
        ranks.from_first(lambda: durable.make_directories(path))
        run = ReportedRun(config, ranks, metrics)
        state = State(config, ranks, Corpus(config.data, config.block))
        recovery = _load(state, run)
        if recovery.outcome:
            metrics.say(f"{recovery.outcome}: {recovery.reason}")
            metrics.event("refused", outcome=recovery.outcome, reason=recovery.reason)
            return recovery.outcome
        saver = Saver(
            run.parent,
            run.cleanup,
            ranks.saves,
            ranks.device,
            committed=run.remember,
            finite=True,
        )
        trainer = Trainer(config, ranks, state, saver, run.require_present)
        outcome = trainer.run(recovery, run.generation, metrics, stop)
        state.close()
    run.close()
    trainer.end_tracking(outcome)
    metrics.close()
    return outcome


class Trainer:
    """One training on one rank: the loop, and what it reports."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        state: State,
        saver: Saver,
        require_present: Callable[[], None],
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.state = state
        self.saver = saver
        self.require_present = require_present
        self.fingerprint = fingerprint(config, ranks.size, state.corpus.digest)
        self.good: str | None = None  # the newest bundle
        self.refused = 0  # saves in a row whose state was not finite
        self.lineage = lineage.lineage(config, state.corpus.dataset)

    def run(self, recovery: Recovery, generation: int, metrics: Metrics, stop: Stop) -> Outcome:
        config, state, saver = self.config, self.state, self.saver
        self.metrics = metrics
        self.generation = generation
        self.tracking = self._track()
        self._introduce()
        self._resume(recovery)
        state.begin()
        self.tracking.start()
        if os.environ["LOCAL_RANK"] == "0":
            stop.files.begin_training()
        self._clock()
        while state.step < config.steps:
            loss = state.train_step()
            self._report(saver.poll())
            self._report_cleanup()
            due = self._minutes_are_over()
            diverged = self.refused >= config.refused_saves
            agreed = self.ranks.agree(
                stop=stop.asked, busy=saver.busy, due=due, diverged=diverged, loss=loss
            )
            self._report_step(agreed.loss)
            if state.step == config.steps:
                break
            if agreed.diverged:
                self._report(saver.wait())
                return self._give_up()
            if agreed.stop:
                return self._end(Outcome.STOPPED)
            if state.step % config.save_every == 0 or agreed.due:
                if agreed.busy and config.when_busy is WhenBusy.SKIP:
                    self._skip()
                else:
                    self._report(saver.wait())
                    saver.cleanup.wait(config.save_timeout / 2, lambda: stop.asked)
                    self._save()
        outcome = self._end(Outcome.DONE)
        saver.cleanup.wait(config.save_timeout, lambda: stop.asked)
        self._report_cleanup()
        return outcome

    def end_tracking(self, outcome: Outcome) -> None:
        """Let MLflow have the rest, when no rank waits for this one any more."""
        newest = self.saver.parent / self.good if self.good else None
        self.tracking.end(outcome, newest, self.config.tracking_timeout)

    def _track(self) -> Tracking:
        """What goes to MLflow, from rank 0 alone, if the environment names a server."""
        config, corpus = self.config, self.state.corpus
        values = config.model_dump(mode="json")
        params = {k: values[k] for k, e in resume.EFFECTS.items() if e is not resume.Effect.PLACE}
        params |= {"world_size": self.ranks.size, "parameters": self.state.parameters}
        facts = Facts(
            run=config.run,
            generation=self.generation,
            workload=os.environ.get("HOLDFAST_WORKLOAD", config.run),
            params=params,
            lineage=self.lineage,
            data=(corpus.source.name, corpus.digest),
            model=config.model,
        )
        uri = os.environ.get("MLFLOW_TRACKING_URI") if self.ranks.first else None
        return Tracking(uri, facts, self.metrics.say)

    def _save(self) -> None:
        """Begin a save, unless nobody could train on from this state.

        Raises Superseded if a restore left this process behind.
        """
        self._last_save = time.monotonic()
        self.require_present()
        losses = self.ranks.gather(self.state.probe())
        if not all(map(math.isfinite, losses)):
            self._refuse(self.state.step, f"its loss is {sum(losses) / len(losses)}")
            return
        labels: dict[str, str | int] = {
            "run": self.config.run,
            "generation": self.generation,
            "step": self.state.step,
            "samples": self.state.consumed,
            "world_size": self.ranks.size,
            "model": self.config.shape,
            "healthy": 1,  # what is not finite is not saved
        }
        labels |= self.lineage
        labels |= as_labels(self.fingerprint)
        labels |= resume.as_label(self.config, self.state.corpus.digest)
        self.saver.begin(self.state.step, self.state.collect(), labels)

    def _end(self, outcome: Outcome) -> Outcome:
        """Leave nothing unsaved: wait for a save in flight, and save again only if it is older."""
        step = self.state.step
        began = time.monotonic()
        if outcome is Outcome.STOPPED:
            self.metrics.say(f"asked to stop after step {step}")
        self._report(self.saver.wait())
        if self.saver.saved_step != step:
            self._save()
            self._report(self.saver.wait())
        if self.saver.saved_step != step and self.refused:
            if outcome is Outcome.DONE:
                return self._give_up()
            self.metrics.say(f"stopped: the newest good bundle is {self.good or 'none'}")
            return outcome
        if self.saver.saved_step != step:
            self.metrics.say(f"failed: step {step} could not be saved")
            return Outcome.RETRY
        seconds = time.monotonic() - began
        self.metrics.event(
            {Outcome.STOPPED: "stop"}.get(outcome, "done"), step=step, seconds=round(seconds, 3)
        )
        self.metrics.say(f"{outcome}: step {step} of {self.config.steps} is saved")
        return outcome

    def _resume(self, recovery: Recovery) -> None:
        if recovery.bundle is None:
            self.metrics.say(recovery.reason)
            self.metrics.event("start", step=0, generation=self.generation)
            return
        labels = recovery.bundle.manifest.labels
        self.saver.saved_step = self.state.step
        self.good = recovery.bundle.name
        differing = differences(labels, self.fingerprint)
        changes = resume.changes(labels, self.config, self.state.corpus.digest) or []
        exact = not differing and not any(change.changes_bits for change in changes)
        promise = "equal fingerprint: bit for bit" if exact else "not bit for bit"
        self.metrics.say(f"{recovery.reason}, loaded in {recovery.seconds:.2f} s, {promise}")
        for difference in differing:
            self.metrics.say(f"  differs: {difference}")
        for change in changes:
            self.metrics.say(f"  changed: {change}")
        self.metrics.set(saved_step=self.state.step)
        self.tracking.tag(resumed_from=recovery.bundle.manifest.digest)
        self.metrics.event(
            "resume",
            step=self.state.step,
            bundle=recovery.bundle.name,
            generation=self.generation,
            seconds=round(recovery.seconds, 3),
            differences=differing,
            changes=[asdict(change) for change in changes],
        )

    def _introduce(self) -> None:
        config, ranks, state = self.config, self.ranks, self.state
        processes = f"{ranks.size} rank" + ("s" if ranks.size > 1 else "")
        self.metrics.say(
            f"run '{config.run}', generation {self.generation}: {config.shape}, "
            f"{state.parameters / 1e6:.2f} M parameters"
            + (" on this rank" if config.parallel == "fsdp" else "")
            + f", {config.parallel} on {processes} ({ranks.device.type}), {config.steps} steps, "
            f"a save every {config.save_every}, keep {config.keep}"
        )
        found = ", ".join(f"{key} {value}" for key, value in self.fingerprint.items())
        self.metrics.say(f"fingerprint: {found}")
        if self.metrics.port:
            self.metrics.say(f"metrics on port {self.metrics.port}")

    def _clock(self) -> None:
        now = time.monotonic()
        self._last_save = self._last_step = self._last_line = now
        self._line_step = self.state.step

    def _minutes_are_over(self) -> bool:
        limit = self.config.save_minutes
        return limit is not None and time.monotonic() - self._last_save >= 60 * limit

    def _report_step(self, loss: float) -> None:
        config, step, now = self.config, self.state.step, time.monotonic()
        rate = config.batch * config.block / (now - self._last_step)
        self._last_step = now
        self.metrics.set(step=step, loss=loss, tokens_per_second=rate)
        self.tracking.step(step, loss=loss, tokens_per_second=rate)
        shown = round(loss, 6) if math.isfinite(loss) else None  # JSON has no NaN
        self.metrics.event("step", step=step, loss=shown, tokens_per_second=round(rate, 1))
        if step % config.log_every == 0 or step == config.steps:
            steps = (step - self._line_step) / (now - self._last_line)
            self._last_line, self._line_step = now, step
            self.metrics.say(
                f"step {step:>{len(str(config.steps))}}/{config.steps}  loss {loss:.4f}  "
                f"{steps:.1f} steps/s  {steps * config.batch * config.block:,.0f} tokens/s"
            )

    def _refuse(self, step: int, reason: str) -> None:
        self.refused += 1
        self.metrics.say(
            f"save of step {step} refused: {reason}; the newest good bundle is "
            f"{self.good or 'none'}"
        )
        self.metrics.add("saves_refused_total")
        self.metrics.event("save-refused", step=step, reason=reason)

    def _give_up(self) -> Outcome:
        """On all ranks: the state has not been finite for too long."""
        reason = f"{self.refused} saves in a row were refused, since the state is not finite"
        remedy = "lower the rate and resume; the newest good bundle is"
        if self.good is None:
            remedy = "lower the rate and start again; there is no good bundle"
        reason = f"{reason}: {remedy} {self.good or ''}".rstrip()
        self.metrics.say(f"refused: {reason}")
        self.metrics.event("refused", outcome=Outcome.REFUSED, reason=reason)
        return Outcome.REFUSED

    def _skip(self) -> None:
        self.metrics.say(f"save of step {self.state.step} skipped: one is still in flight")
        self.metrics.add("saves_skipped_total")
        self.metrics.event("save-skipped", step=self.state.step)

    def _report_cleanup(self) -> None:
        if problem := self.saver.cleanup.problem():
            self.metrics.say(f"older bundles could not be removed: {problem}")

    def _report(self, saved: Saved | None) -> None:
        if saved is None:
            return
        self.metrics.add("stall_seconds_total", saved.stall)
        if saved.problem and saved.refused:
            self._refuse(saved.step, saved.problem)
            return
        if saved.problem:
            self.metrics.say(f"save of step {saved.step} failed, training goes on: {saved.problem}")
            self.metrics.add("save_failures_total")
            self.metrics.event("save-failed", step=saved.step, reason=saved.problem)
            return
        self.refused = 0
        self.good = bundle = f"step-{saved.step:08d}"
        self.metrics.say(
            f"saved step {saved.step}: {saved.size / 2**20:.1f} MiB in {saved.seconds:.2f} s, "
            f"training waited {saved.stall * 1000:.0f} ms"
        )
        self.metrics.add("saves_total")
        self.metrics.set(saved_step=saved.step, save_seconds=saved.seconds)
        if self.ranks.first:
            self.metrics.set(save_bytes=saved.size)
            self.tracking.tag(bundle=bundle, checkpoint=saved.digest)
        self.metrics.event(
            "save",
            step=saved.step,
            bundle=bundle,
            generation=self.generation,
            bytes=saved.size,
            seconds=round(saved.seconds, 4),
            stall_seconds=round(saved.stall, 4),
        )


def _load(state: State, run: ReportedRun) -> Recovery:
    """Load the newest bundle from which training can go on; decide what to do without one.

    One that verifies and holds NaN or infinity, as earlier versions saved them, is quarantined.
    """
    while True:
        recovery = recover(run, state.config.shape)
        if recovery.outcome or recovery.bundle is None:
            return recovery
        began = time.monotonic()
        labels = recovery.bundle.manifest.labels
        fits = resume.fits_ranks(labels, state.config, state.corpus.digest, state.ranks.size)
        state.load(recovery.bundle.path, keep_own=fits)
        if all(state.ranks.gather(state.is_finite())):
            return replace(recovery, seconds=time.monotonic() - began)
        damage = InvalidBundle(recovery.bundle.path, ["its state is not finite"])
        state.ranks.from_first(partial(run.set_aside, damage))

"""The story of `make demo`: what Holdfast promises, tried on the `local` stack's own objects."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox import stack
from sandbox.cluster.cluster import Cluster, claim
from sandbox.demo import report
from sandbox.demo.narrator import Narrator
from sandbox.demo.observe import Backup, Line, Training
from sandbox.demo.story import Row, Story

#: Where in the run the faults come, as shares of all steps.
KILL_AT, DESTROY_AT, RESTORE_AT, SUSPEND_AT = 0.25, 0.45, 0.7, 0.9


class Demo:
    """Runs the story in `state` and writes the report."""

    def __init__(
        self, state: Path, target: Path, stack_name: str, speed: float, as_json: bool
    ) -> None:
        self.state, self.target, self.speed = state, target, speed
        self.story = Story(stack_name)
        narrator = self._narrator = Narrator(as_json, self.story.promises)
        self._chapter, self._say, self._promise = narrator.chapter, narrator.say, narrator.promise
        self._clusters: list[Cluster] = []

    def run(self) -> bool:
        """Run the whole story; returns whether every promise was kept."""
        began = time.monotonic()
        self._identity = claim(self.state)
        try:
            told = self._plan()
            reference = self._undisturbed(told)
            training = self._begin(told)
            self._kill_in_a_save(training)
            self._destroy_the_volume(training)
            self._restore(training)
            self._finish(training, reference)
            self._flip_a_byte(training, reference)
            self.story.lines, self.story.backups = training.lines(), training.backups()
        finally:
            for cluster in self._clusters:
                cluster.stop()
        self.story.seconds = time.monotonic() - began
        self._end()
        return self.story.kept

    # The chapters

    def _plan(self) -> stack.Stack:
        told = stack.read(self.story.stack)
        self._chapter(f"Plan: what the stack '{told.name}' declares, with no engine and no cluster")
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(told.counts.items()))
        self._say(f"{sum(told.counts.values())} resources: {kinds}")
        return told

    def _undisturbed(self, told: stack.Stack) -> Training:
        self._chapter("An undisturbed run of the same Job, to compare with")
        training = self._cluster(told, "alone")
        training.cluster.start(cronjobs=False)
        began = time.monotonic()
        training.wait("the undisturbed run", lambda: training.job.finished)
        seconds = time.monotonic() - began
        lines = self.story.undisturbed = training.lines()
        saves = [line.fields["seconds"] for line in lines if line.event == "save"]
        loss = next(line for line in reversed(lines) if line.event == "step").fields["loss"]
        size = _size(training.newest().manifest.size)
        self._say(f"{training.steps} steps in {seconds:.0f} s, loss {loss:.4f}, {len(saves)} saves "
                  f"of {size} in {max(saves):.2f} s at most")  # fmt: skip
        training.cluster.stop()
        return training

    def _begin(self, told: stack.Stack) -> Training:
        training = self._cluster(told, "run")
        cron = training.operator.cron
        self._chapter(f"Train, with a backup every {cron.spec['schedule']} "
                      f"at {self.speed:g} times the speed")  # fmt: skip
        self._say(f"Job {training.job.name}: a save every {training.interval} of {training.steps} "
                  f"steps; CronJob {cron.name} asks the Blueprint for backups")  # fmt: skip
        return training

    def _kill_in_a_save(self, training: Training) -> None:
        saves = max(2, round(training.steps * KILL_AT / training.interval))
        middle = saves * training.interval
        flag = self.state / "in-the-middle-of-a-save"
        fault = f"commit.before-rename@{saves}=hold:{flag}"
        first = f"{training.job.name}-1"
        training.cluster.pod_environment[first] = {"HOLDFAST_FAILPOINT": fault}
        training.cluster.start()
        training.wait("the save to kill", flag.exists)
        self._chapter(f"SIGKILL of the whole pod in the middle of the save of step {middle}")
        before = training.newest().name
        killed = time.time()
        count = training.job.active.kill()
        last = training.step()
        half = [path for path in training.volume.run_path.glob("gen-*/.tmp-*") if path.is_dir()]
        self._say(f"{count} processes of pod {first} killed at step {last}; on the volume: "
                  f"{len(half)} save without a commit, the newest bundle is {before}")  # fmt: skip
        resumed, seconds = self._resumed(training, killed, "killed in a save")
        lost = last - resumed.step
        allowed = training.interval + max(0, last - middle)
        self._say(f"pod {resumed.pod} goes on from step {resumed.step} after {seconds:.1f} s")
        self._promise("a killed save does not exist; the one before it is used",
                      resumed.step == middle - training.interval and bool(half),
                      f"step {resumed.step} after a kill in the save of {middle}")  # fmt: skip
        self._promise("at most one interval and the steps made during one save are lost",
                      0 <= lost <= allowed, f"{lost} steps of {allowed} allowed")  # fmt: skip
        self.story.rows.append(Row("killed in the middle of a save", last, lost, seconds))

    def _destroy_the_volume(self, training: Training) -> None:
        goal = round(training.steps * DESTROY_AT)
        self._reach(training, goal, lambda: training.backups())
        cluster, job = training.cluster, training.job
        root = training.volume.root
        with cluster.cordoned():
            self._chapter("The node is gone, and its volume with it")
            destroyed = time.time()
            job.active.kill("DisruptionTarget")
            last = training.step()
            size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
            shutil.rmtree(root)
            newest = training.backups()[-1]
            self._say(f"pod killed at step {last}, {_size(size)} removed with {root.name}; "
                      f"the newest snapshot holds step {newest.step}")  # fmt: skip
        resumed, seconds = self._resumed(training, destroyed, "volume destroyed")
        pulled = training.newest().manifest.size
        took = training.seconds(resumed.pod, "recover")
        self._say(f"init container `recover` pulled {_size(pulled)} in {took:.1f} s; "
                  f"pod {resumed.pod} goes on from step {resumed.step}")  # fmt: skip
        self._promise("an empty volume is refilled from the newest snapshot, with no human",
                      resumed.step == newest.step,
                      f"step {resumed.step}, snapshot {newest.snapshot}")  # fmt: skip
        self.story.rows.append(
            Row("volume destroyed", last, last - resumed.step, seconds, pulled, took)
        )

    def _restore(self, training: Training) -> None:
        def earlier() -> Backup | None:
            done = training.backups()
            older = [backup for backup in done[-4:] if backup.step < done[-1].step]
            return older[-1] if older else None

        goal = round(training.steps * RESTORE_AT)
        since = training.step()
        self._reach(training, goal, lambda: earlier() and training.backups()[-1].step >= since)
        target = earlier()
        assert target is not None
        generation = training.volume.present()
        self._chapter(f"Restore to step {target.step}, while newer bundles and snapshots exist")
        asked = time.time()
        told = training.operator.result("restore", "--snapshot", target.snapshot)
        took = time.time() - asked
        stopped = training.events("job-suspended")[-1].time
        resumed, seconds = self._resumed(training, stopped, "restored")
        last = [line.step for line in training.lines("step") if line.time < resumed.time][-1]
        newer = [bundle.name for bundle in training.volume.bundles(generation)]
        present = training.volume.present()
        self._say(f"`holdfast restore` took {took:.1f} s; training paused for {seconds:.1f} s")
        self._say(f"generation {present} begins at step {resumed.step}; kept in generation "
                  f"{generation}: {', '.join(newer)}")  # fmt: skip
        self._promise("a restore returns to the requested step and keeps what is newer",
                      resumed.step == target.step and bool(newer)
                      and present == (generation or 0) + 1,
                      f"step {resumed.step} of snapshot {told['outputs']['snapshot']}")  # fmt: skip
        self.story.rows.append(Row("restored, as asked", last,
                                   last - resumed.step, seconds, training.newest().manifest.size,
                                   self._staging(training)))  # fmt: skip

    def _finish(self, training: Training, reference: Training) -> None:
        training.wait("the last step", lambda: training.job.finished)
        self._chapter("The last step, compared with the undisturbed run")
        pods = len({line.pod for line in training.lines()})
        self._say(f"Job {training.job.name} is {training.job.finished} after {pods} pods")
        text = "the final bundle equals the undisturbed run's, bit for bit"
        if not self._compare(text, training, reference):
            return
        expected = {line.step: line.fields["loss"] for line in reference.lines("step")}
        steps = training.lines("step")
        whole = len(expected) == training.steps
        wrong = [line.step for line in steps if line.fields["loss"] != expected[line.step]]
        found = f"{len(steps)} steps made for {len(expected)}, {len(wrong)} differ"
        self._promise("every step, repeated ones too, had the undisturbed run's loss",
                      whole and not wrong, found)  # fmt: skip

    def _flip_a_byte(self, training: Training, reference: Training) -> None:
        newest = training.newest()
        before = training.volume.bundles()[1]
        self._chapter(f"One byte of the newest bundle, {newest.name}, flips; then a pod starts")
        entry = max(newest.manifest.files, key=lambda file: file.size)
        with (newest.path / entry.path).open("r+b") as file:
            file.seek(entry.size // 2)
            byte = file.read(1)[0]
            file.seek(entry.size // 2)
            file.write(bytes([byte ^ 1]))
        flipped = time.time()
        training.cluster.create_job(training.remove_job())
        resumed, seconds = self._resumed(training, flipped, "byte flipped")
        training.wait("the last step again", lambda: training.job.finished)
        aside = [path.name for path in training.volume.quarantined()]
        self._say(f"{entry.path} at byte {entry.size // 2}; pod {resumed.pod} goes on from step "
                  f"{resumed.step}; quarantined: {', '.join(aside)}")  # fmt: skip
        self._promise("a damaged bundle is never loaded: the one before is, and it is quarantined",
                      resumed.step == before.manifest.labels["step"]
                      and any(name.startswith(newest.name) for name in aside),
                      f"step {resumed.step}, {len(aside)} in quarantine")  # fmt: skip
        self._compare("and the end is the same again, bit for bit", training, reference)
        last = training.steps
        self.story.rows.append(Row("newest bundle damaged", last, last - resumed.step, seconds))

    # What the chapters share

    def _cluster(self, told: stack.Stack, name: str) -> Training:
        cluster = Cluster(told.objects, self.state / name, told.project, self.speed,
                          f"{self._identity}/{name}")  # fmt: skip
        self._clusters.append(cluster)
        return Training(cluster)

    def _reach(self, training: Training, step: int, also: Callable[[], Any]) -> None:
        """Let it train to this step, and on until `also` holds; suspend it near its last step."""
        late = training.steps * SUSPEND_AT
        training.wait(f"step {step}", lambda: training.step() >= step)
        training.wait("a backup", lambda: also() or training.step() >= late)
        if not also():
            self._say("the training is faster than its backups: suspended until there is one")
            training.job.patch({"spec": {"suspend": True}})
            training.wait("a backup", also)
            training.job.patch({"spec": {"suspend": False}})
            since = time.time()
            training.wait("its next pod", lambda: training.lines("step")[-1].time > since)

    def _resumed(self, training: Training, since: float, why: str) -> tuple[Line, float]:
        """The next `resume` of the trainer, and the seconds until training went on."""

        def begun() -> tuple[Line, float] | None:
            resumes = [line for line in training.lines("resume") if line.time > since]
            steps = [line for line in training.lines("step")
                     if resumes and line.time > resumes[0].time]  # fmt: skip
            return (resumes[0], steps[0].time - since) if steps else None

        resumed, seconds = training.wait("the next pod to train", begun)
        self.story.marks.append((since, since + seconds, why))
        return resumed, seconds

    def _staging(self, training: Training) -> float:
        """Seconds that the `stage` task of the last restore took."""
        name = training.events("actionset-ended", action="restore")[-1].details["actionset"]
        return training.seconds(f"{name}-stage", "container")

    def _compare(self, text: str, training: Training, reference: Training) -> bool:
        """Compare the newest bundles; False if fingerprints differ: nothing is claimed then."""
        ours, theirs = training.newest().manifest, reference.newest().manifest
        prints = [{k: str(v) for k, v in manifest.labels.items() if k.startswith("fingerprint.")}
                  for manifest in (ours, theirs)]  # fmt: skip
        self.story.fingerprint = prints[0]
        keys = prints[0] | prints[1]
        differing = [key for key in keys if prints[0].get(key) != prints[1].get(key)]
        if differing or not keys:
            self._promise(text, False, f"not claimed: fingerprints differ in {differing}")
            return False
        self._promise(text, ours.content == theirs.content and ours.name == theirs.name,
                      f"content {ours.content[:16]}… and {theirs.content[:16]}…")  # fmt: skip
        return True

    # What is printed

    def _end(self) -> None:
        story = self.story
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(report.render(story))
        self._narrator.end(
            report.COLUMNS,
            report.rows(story),
            story.seconds,
            {"table": [asdict(row) for row in story.rows]},
            self.target,
            self.state,
        )


def _size(count: int) -> str:
    """Bytes in IEC units."""
    return f"{count / 2**20:.1f} MiB"

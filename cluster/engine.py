"""The real Pulumi engine by its Automation API, with the program of `__main__.py` inline.

`make up`, `preview` and `destroy` use it where Pulumi's own installation is not on the PATH. The
language host, which runs Python programs for the command line, is in no registry; the Automation
API needs none.
"""

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pulumi import automation as auto

from cluster.build import build
from cluster.context import CONTEXT, identity, kubeconfig
from cluster.errors import ClusterProblem
from cluster.places import BIN, BUILT, KUBECONFIG, PROJECT, PULUMI_HOME, tools_first

#: Stacks whose state is on this machine, with a copy of their settings each.
_STACKS = BUILT / "stacks"
#: Beside a stack's state: of which cluster its resources are.
_MARK = "cluster.json"
#: Kanister's chart and image are in no registry that can be counted on: the same names, CRDs and
#: rights, with a controller of ours.
STAND_IN = PROJECT / "cluster" / "chart" / "kanister-operator"
Say = Callable[[str], None]


class Engine:
    """One stack, deployed from this checkout; its state is a folder of this machine.

    Args:
        stack: its name.
        settings: of the stack, `{"holdfast:target": …}`; None: those of `Pulumi.<stack>.yaml`.
        say: gets the engine's output line by line.
    """

    def __init__(
        self, stack: str, settings: Mapping[str, Any] | None = None, say: Say | None = None
    ) -> None:
        config = _settings(stack) if settings is None else dict(settings)
        folder = _STACKS / stack
        state = folder / "state"
        self._cluster = _forget_what_went_with_its_cluster(folder, config)
        self._mark = folder / _MARK
        state.mkdir(parents=True, exist_ok=True)
        # A copy: the engine writes the salt of its secrets into the file, which is in git here.
        shutil.copy(PROJECT / "Pulumi.yaml", folder)
        _write_settings(folder / f"Pulumi.{stack}.yaml", config)
        self.environment = {
            "PULUMI_BACKEND_URL": f"file://{state}",
            "PULUMI_CONFIG_PASSPHRASE": os.environ.get("PULUMI_CONFIG_PASSPHRASE", ""),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PATH": tools_first()["PATH"],
            "KUBECONFIG": kubeconfig(),
        }
        # The program runs in this process, and asks the cluster by kubectl.
        os.environ |= {name: self.environment[name] for name in ("PATH", "KUBECONFIG")}
        self._say = say or print
        self._stack = auto.create_or_select_stack(
            stack,
            "holdfast",
            _program,
            opts=auto.LocalWorkspaceOptions(
                work_dir=str(folder),
                pulumi_home=str(PULUMI_HOME),
                pulumi_command=auto.PulumiCommand(root=str(BIN.parent), skip_version_check=True),
                env_vars=self.environment,
            ),
        )

    def up(self) -> Mapping[str, int]:
        """Make the cluster what the settings say; how many resources had which operation."""
        # First: an `up` that is cut short has a state too.
        self._mark.write_text(json.dumps(self._cluster))
        return _changes(self._stack.up(on_output=self._say, color="never").summary)

    def preview(self, *, refresh: bool = False) -> Mapping[str, int]:
        """What ``up`` would do; with ``refresh`` after a look at the cluster."""
        done = self._stack.preview(on_output=self._say, color="never", refresh=refresh)
        return {getattr(kind, "value", kind): n for kind, n in done.change_summary.items()}

    def refresh(self) -> Mapping[str, int]:
        """Take into the state what the cluster has."""
        return _changes(self._stack.refresh(on_output=self._say, color="never").summary)

    def destroy(self) -> Mapping[str, int]:
        """Delete every resource of the stack; what volumes hold stays."""
        changes = _changes(self._stack.destroy(on_output=self._say, color="never").summary)
        # The state is empty, so that of no cluster. One that failed raised, and keeps its mark.
        self._mark.unlink(missing_ok=True)
        return changes

    def exports(self) -> Mapping[str, Any]:
        """The stack's exports by name."""
        return {name: output.value for name, output in self._stack.outputs().items()}


def _program() -> None:
    if str(PROJECT) not in sys.path:
        sys.path.insert(0, str(PROJECT))
    runpy.run_path(str(PROJECT / "__main__.py"))


def _settings(stack: str) -> dict[str, Any]:
    """Those of `Pulumi.<stack>.yaml`.

    Raises:
        ClusterProblem: there is no such stack, or it is not for a Kubernetes that is there.
    """
    source = PROJECT / f"Pulumi.{stack}.yaml"
    if not source.exists():
        known = ", ".join(sorted(each.suffixes[0][1:] for each in PROJECT.glob("Pulumi.*.yaml")))
        raise ClusterProblem(
            f"there is no stack {stack!r}: {source.name} is not there, but {known}"
        )
    config: dict[str, Any] = yaml.safe_load(source.read_text())["config"]
    if (target := config.get("holdfast:target")) != "kubernetes":
        raise ClusterProblem(
            f"stack {stack!r} is for target {target}, whose provider is not built here: put "
            "Pulumi's command line on PATH (https://www.pulumi.com/docs/install/), then run this "
            "again"
        )
    return config


def _for_pulumi(stack: str, kanister: str) -> dict[str, str]:
    """The environment of Pulumi's own command: with the KUBECONFIG that the engine here would use,
    unless the stack says itself which cluster it is for.

    Raises:
        ClusterProblem: the command cannot do what is asked.
    """
    if kanister not in ("", "upstream"):
        raise ClusterProblem(
            f"Pulumi's own command takes the chart of Kanister that stack {stack!r} names, not "
            f"{kanister}: name it there (pulumi config set --stack {stack} --path "
            f"holdfast:kanister.chart {kanister}), or leave KANISTER out"
        )
    file = PROJECT / f"Pulumi.{stack.rpartition('/')[2]}.yaml"  # of organization/project/stack
    config = (yaml.safe_load(file.read_text()).get("config") or {}) if file.exists() else {}
    _one_cluster(stack, config)
    return {**os.environ, **({} if _has_a_cluster(config) else {"KUBECONFIG": kubeconfig()})}


def _one_cluster(stack: str, config: Mapping[str, Any]) -> None:
    """A context that is given is the one that is used.

    Raises:
        ClusterProblem: the stack says itself which cluster it is for.
    """
    if (context := os.environ.get(CONTEXT)) and _has_a_cluster(config):
        raise ClusterProblem(
            f"stack {stack!r} says itself which cluster it is for, and context {context} is not "
            "used: leave CONTEXT out"
        )


def _has_a_cluster(config: Mapping[str, Any]) -> bool:
    """Whether the stack makes its cluster, or names the way to it."""
    named = config.get("holdfast:kubernetes") or {}
    return config.get("holdfast:target") != "kubernetes" or bool(
        named.get("kubeconfig") or named.get("context")
    )


def with_kanister(config: dict[str, Any], chart: str = "") -> dict[str, Any]:
    """The settings with another chart of Kanister.

    Args:
        chart: its folder; ``upstream``: what the settings say; empty: the stand-in on the cluster
            of `make cluster`, which has its image, and ``upstream`` on any other.
    """
    kanister = dict(config.get("holdfast:kanister") or {})
    if not chart:
        ours = kubeconfig() == str(KUBECONFIG)
        chart = str(STAND_IN) if ours and "chart" not in kanister else "upstream"
    if chart == str(STAND_IN):
        print(f"Kanister: a stand-in, {STAND_IN.relative_to(PROJECT)} (docs/cluster.md)")
    if chart == "upstream":
        return config
    return {**config, "holdfast:kanister": {**kanister, "chart": chart}}


def _forget_what_went_with_its_cluster(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """A state that is of a cluster which `make cluster-down` removed speaks of nothing any more;
    returns the mark of the cluster that is there now.

    Raises:
        ClusterProblem: the state is of another cluster, which may be there still.
    """
    named = config.get("holdfast:kubernetes") or {}
    place = named.get("kubeconfig") or kubeconfig()
    found = {
        "cluster": identity({**tools_first(), "KUBECONFIG": place}, named.get("context")),
        "ours": place == str(KUBECONFIG),
    }
    mark = folder / _MARK
    known = json.loads(mark.read_text()) if mark.exists() else found
    if known["cluster"] != found["cluster"]:
        if not (known["ours"] and found["ours"]):
            raise ClusterProblem(
                f"the state of stack {folder.name!r} is of another cluster than {place} reaches: "
                f"name that one by KUBECONFIG; if it is gone for good, delete {folder}"
            )
        shutil.rmtree(folder)
    return found


def _write_settings(file: Path, config: Mapping[str, Any]) -> None:
    before = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump({**before, "config": dict(config)}))


def _changes(summary: Any) -> Mapping[str, int]:
    return dict(summary.resource_changes or {})


def _main(
    verb: Annotated[str, typer.Argument(help="up, preview or destroy.")],
    stack: Annotated[str, typer.Argument(help="The stack, by its Pulumi.<stack>.yaml.")],
    kanister: Annotated[
        str, typer.Option(help="`upstream`: the chart that the stack names; else a chart's folder.")
    ] = "",
) -> None:
    """Deploy, look at or destroy one stack.

    By Pulumi's own installation where that is on the PATH; else by the engine that is built here,
    with its state in .cache/cluster/stacks.
    """
    if verb not in ("up", "preview", "destroy"):
        raise typer.BadParameter(f"{verb}: say up, preview or destroy")
    try:
        if all(map(shutil.which, ("pulumi", "pulumi-language-python"))):
            os.execvpe("pulumi", ["pulumi", verb, "--stack", stack], _for_pulumi(stack, kanister))
        settings = _settings(stack)  # a wrong name is said before anything is built
        _one_cluster(stack, settings)
        build(("pulumi", "provider"))
        if shutil.which("kubectl", path=tools_first()["PATH"]) is None:
            build(("kubernetes",))
        changes = getattr(Engine(stack, with_kanister(settings, kanister)), verb)()
    except ClusterProblem as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except auto.CommandError:
        raise typer.Exit(1) from None  # the engine has said why
    typer.echo(", ".join(f"{count} {kind}" for kind, count in changes.items()))


if __name__ == "__main__":
    typer.run(_main)

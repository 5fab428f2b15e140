"""Commands reach the cluster that is meant, and the state of one that is gone is dropped."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import typer

from cluster import cli, context, engine, processes
from cluster.errors import ClusterProblem

LOCAL = {"holdfast:target": "kubernetes"}
Answer = Callable[[list[str]], tuple[int, str, str]]


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Answer], None]:
    """Lets a test say what kubectl answers."""
    monkeypatch.setattr(context, "BUILT", tmp_path)
    monkeypatch.setattr(context, "KUBECONFIG", tmp_path / "kubeconfig")
    monkeypatch.setattr(engine, "KUBECONFIG", tmp_path / "kubeconfig")
    (tmp_path / "kubeconfig").touch()
    for name in (context.CONTEXT, "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    context.only.cache_clear()

    def answers(answer: Answer) -> None:
        monkeypatch.setattr(
            context,
            "_kubectl",
            lambda arguments, _: subprocess.CompletedProcess(arguments, *answer(arguments)),
        )

    return answers


def test_a_named_context_gets_a_kubeconfig_of_its_own(
    kubectl: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubectl(lambda arguments: (0, f"only {arguments[-1]}", ""))
    monkeypatch.setenv(context.CONTEXT, "arn:aws:eks/one")

    file = Path(context.kubeconfig())

    assert file.parent == tmp_path / "contexts"
    assert file.read_text() == "only --context=arn:aws:eks/one"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_context_that_is_not_there_is_refused_with_those_that_are(
    kubectl: Callable[[Answer], None],
) -> None:
    kubectl(lambda a: (0, "kind-kind\nminikube\n", "") if "get-contexts" in a else (1, "", "no"))

    with pytest.raises(ClusterProblem, match="no context nope: there is kind-kind, minikube"):
        context.only("nope")


def test_no_cluster_is_said_with_what_to_do(kubectl: Callable[[Answer], None]) -> None:
    kubectl(lambda _: (1, "", "E1126 memcache.go\nThe connection was refused"))

    with pytest.raises(ClusterProblem, match=r"The connection was refused\): start one by `make"):
        context.identity({"KUBECONFIG": "/k"})


class FakeStack:
    """The engine's part: writes a state, and takes it away."""

    def __init__(self, state: Path) -> None:
        self._resources = state / "resources"

    def up(self, **_: Any) -> SimpleNamespace:
        self._resources.touch()
        return self._done()

    def destroy(self, **_: Any) -> SimpleNamespace:
        self._resources.unlink(missing_ok=True)
        return self._done()

    def _done(self) -> SimpleNamespace:
        return SimpleNamespace(summary=SimpleNamespace(resource_changes={}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of the stack `local`, which no real engine deploys."""
    found = tmp_path / "stacks" / "local"
    monkeypatch.setattr(engine, "_STACKS", found.parent)
    monkeypatch.setattr(engine.auto, "PulumiCommand", lambda **_: None)
    monkeypatch.setattr(
        engine.auto, "create_or_select_stack", lambda *_, **__: FakeStack(found / "state")
    )
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the engine changes it
    return found


def test_the_state_of_a_cluster_that_was_removed_is_forgotten(
    kubectl: Callable[[Answer], None], folder: Path
) -> None:
    kubectl(lambda _: (0, "first", ""))
    engine.Engine("local", LOCAL).up()

    engine.Engine("local", LOCAL)
    assert (folder / "state" / "resources").exists()
    kubectl(lambda _: (0, "second", ""))
    engine.Engine("local", LOCAL)

    assert not (folder / "state" / "resources").exists()


def test_the_state_of_someone_elses_cluster_is_kept_and_named(
    kubectl: Callable[[Answer], None], folder: Path
) -> None:
    _up_on_another_cluster(kubectl)

    with pytest.raises(ClusterProblem, match="'local' is of another cluster"):
        engine.Engine("local", LOCAL)

    assert (folder / "state" / "resources").exists()


def test_what_was_destroyed_can_go_to_another_cluster(
    kubectl: Callable[[Answer], None], folder: Path
) -> None:
    _up_on_another_cluster(kubectl).destroy()

    engine.Engine("local", LOCAL).up()

    assert json.loads((folder / "cluster.json").read_text())["cluster"] == "ours"


def test_a_destroy_that_failed_leaves_its_cluster_named(
    kubectl: Callable[[Answer], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise engine.auto.CommandError(engine.auto.CommandResult("", "a finalizer", 255))

    deployed = _up_on_another_cluster(kubectl)
    monkeypatch.setattr(FakeStack, "destroy", fail)
    with pytest.raises(engine.auto.CommandError):
        deployed.destroy()

    with pytest.raises(ClusterProblem, match="'local' is of another cluster"):
        engine.Engine("local", LOCAL)


def test_up_names_the_cluster_also_after_a_destroy_by_the_same_engine(
    kubectl: Callable[[Answer], None], folder: Path
) -> None:
    deployed = _up_on_another_cluster(kubectl)
    deployed.destroy()
    deployed.up()

    with pytest.raises(ClusterProblem, match="'local' is of another cluster"):
        engine.Engine("local", LOCAL)


def _up_on_another_cluster(kubectl: Callable[[Answer], None]) -> engine.Engine:
    """Deploy by a KUBECONFIG of one's own; from then on that of `make cluster` is meant."""
    os.environ["KUBECONFIG"] = "/theirs"
    kubectl(lambda _: (0, "theirs", ""))
    deployed = engine.Engine("local", LOCAL)
    deployed.up()
    kubectl(lambda _: (0, "ours", ""))
    del os.environ["KUBECONFIG"]
    return deployed


def test_a_stack_that_needs_another_provider_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ClusterProblem, match="'prod' is for target eks"):
        engine._settings("prod")
    with pytest.raises(ClusterProblem, match=r"no stack 'prd': .* but .*dev, local"):
        engine._settings("prd")


@pytest.fixture
def pulumi(
    kubectl: Callable[[Answer], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """Pulumi's own installation is on the PATH; what `make up` runs it with."""
    for program in ("pulumi", "pulumi-language-python"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "PROJECT", tmp_path)
    kubectl(lambda _: (0, "", ""))

    ran: list[tuple[list[str], dict[str, str]]] = []

    def execute(_: str, command: list[str], environment: dict[str, str]) -> NoReturn:
        ran.append((command, environment))
        raise SystemExit  # as this process is another one then

    monkeypatch.setattr(os, "execvpe", execute)

    def run(config: dict[str, Any], kanister: str = "", stack: str = "one") -> dict[str, str]:
        (tmp_path / "Pulumi.one.yaml").write_text(json.dumps({"config": config}))
        with pytest.raises(SystemExit):
            engine._main("up", stack, kanister)
        command, environment = ran.pop()
        assert command == ["pulumi", "up", "--stack", stack]
        return environment

    return run


def test_pulumis_own_command_means_the_same_cluster(
    pulumi: Callable[..., dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pulumi(LOCAL)["KUBECONFIG"] == str(tmp_path / "kubeconfig")
    assert pulumi(LOCAL, "upstream", "org/project/one")["KUBECONFIG"] == str(
        tmp_path / "kubeconfig"
    )
    monkeypatch.setenv(context.CONTEXT, "kind-kind")
    assert pulumi(LOCAL)["KUBECONFIG"].endswith("/contexts/kind-kind.kubeconfig")


@pytest.mark.parametrize(
    "config",
    [
        {"holdfast:target": "eks"},
        {**LOCAL, "holdfast:kubernetes": {"context": "minikube"}},
        {**LOCAL, "holdfast:kubernetes": {"kubeconfig": "/theirs"}},
    ],
    ids=["eks", "context", "kubeconfig"],
)
def test_a_stack_that_says_its_cluster_goes_to_no_other(
    pulumi: Callable[..., dict[str, str]],
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "KUBECONFIG" not in pulumi(config)

    monkeypatch.setenv(context.CONTEXT, "kind-kind")
    with pytest.raises(typer.Exit):
        engine._main("up", "one")
    assert "context kind-kind is not used: leave CONTEXT out" in capsys.readouterr().err


def test_another_chart_of_kanister_is_not_dropped_by_pulumis_own_command(
    pulumi: Callable[..., dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        engine._main("up", "one", "/a/chart")

    assert "--path holdfast:kanister.chart /a/chart" in capsys.readouterr().err


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "STATE", tmp_path)
    return tmp_path


def test_a_clone_does_not_start_over_the_cluster_of_another(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other := state / "other").mkdir()
    (other / "kubeconfig").touch()
    (state / "clone").write_text(str(other))
    monkeypatch.setattr(processes, "running", lambda name: name == "kubelet")

    with pytest.raises(ClusterProblem, match=r"another clone runs .*/other\)"), cli._alone():
        pass
    assert (other / "kubeconfig").exists()
    with cli._alone(also_of_others=True):
        pass
    assert not (other / "kubeconfig").exists(), "it is of a cluster that has ended"


def test_a_clone_takes_over_what_a_stopped_cluster_left(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "clone").write_text("/other/.cache/cluster")
    monkeypatch.setattr(processes, "running", lambda name: None)

    with cli._alone():
        assert (state / "clone").read_text() == str(cli.BUILT.resolve())

"""Which Kubernetes a cluster has: chosen at its start, kept until it is removed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import build, cli, node, places, versions
from cluster.errors import ClusterProblem
from cluster.versions import Minor


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (places, versions):
        monkeypatch.setattr(module, "KUBERNETES", tmp_path / "kubernetes")
    monkeypatch.setattr(versions, "STATE", tmp_path)
    return tmp_path


def start(state: Path, wanted: Minor | None) -> None:
    """As `make cluster` does, to the point at which the cluster has data."""
    versions.choose(wanted)
    (state / "etcd").mkdir(exist_ok=True)


def test_a_cluster_has_the_pinned_version_by_default(state: Path) -> None:
    start(state, None)

    assert versions.chosen() is Minor.PINNED
    assert node.program("kubelet") == str(places.BIN / "kubelet")


def test_a_part_that_starts_later_runs_the_programs_of_the_start(state: Path) -> None:
    start(state, Minor.NEXT)
    start(state, None)

    assert versions.chosen() is Minor.NEXT
    assert node.program("kubelet") == str(places.BUILT / "kubernetes-1.36" / "kubelet")


def test_a_cluster_of_another_version_is_refused_whether_it_runs_or_not(state: Path) -> None:
    start(state, Minor.NEXT)

    with pytest.raises(ClusterProblem, match=r"1\.35: the cluster has 1\.36.*cluster-down first"):
        start(state, Minor.PINNED)


def test_the_next_cluster_does_not_get_the_version_of_the_last(state: Path) -> None:
    start(state, Minor.NEXT)
    (state / "etcd").rmdir()  # as `make cluster-down` does
    start(state, None)

    assert versions.chosen() is Minor.PINNED


def test_kubectl_is_of_the_version_of_the_cluster(state: Path) -> None:
    start(state, Minor.NEXT)

    first, second, *_ = places.tools_first({"PATH": "/usr/bin"})["PATH"].split(":")
    assert (Path(first).name, Path(second).name) == ("kubernetes-1.36", "bin")


@pytest.mark.parametrize("minor", Minor)
def test_what_is_built_is_the_release_that_its_module_pins(minor: Minor) -> None:
    pinned = (build.MODULES / minor.module / "go.mod").read_text()

    assert f"k8s.io/kubernetes {minor.release} " in pinned
    assert minor.release.startswith(f"v{minor}.")
    staging = minor.release.replace("v1.", "v0.", 1)
    replaced = [line.split()[-1] for line in pinned.splitlines() if " => k8s.io/" in line]
    assert set(replaced) == {staging}


def test_each_version_is_built_beside_the_other() -> None:
    folders = {module.folder for module in build.KUBERNETES}

    assert len(folders) == len(Minor)


def test_only_the_version_of_the_cluster_is_built(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    for module in (places, build):
        monkeypatch.setattr(module, "BIN", state / "bin")
    monkeypatch.setattr(places, "BUILT", state)
    monkeypatch.setattr(build, "_compile", lambda module: compiled.append(module.name))
    monkeypatch.setattr(build, "_offer_plugins", lambda: None)
    start(state, Minor.NEXT)

    build.build()

    assert compiled == ["kubernetes-1.36", "tools", "pulumi", "provider"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kubernetes", "1.34"], "'1.34' is not one of '1.35', '1.36'"),
        (["--kubernetes", "1.36", "--context", "kind"], "the cluster of a context has its own"),
    ],
)
def test_a_version_that_cannot_be_started_is_refused(options: list[str], says: str) -> None:
    done = CliRunner().invoke(cli.app, ["up", *options])

    assert done.exit_code != 0
    assert says in " ".join(done.output.replace("│", " ").split())

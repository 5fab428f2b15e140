"""What `make cluster` builds from Go modules."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from cluster import build
from cluster.places import PROJECT


def test_coredns_has_every_plugin_that_its_configuration_names() -> None:
    manifests = yaml.safe_load_all((PROJECT / "cluster/manifests/coredns.yaml").read_text())
    (configuration,) = [each["data"]["Corefile"] for each in manifests if "data" in each]
    named = set(re.findall(r"^    (\w+)", configuration, re.M))
    main = (build.MODULES / "tools" / "coredns" / "main.go").read_text()
    imported = set(re.findall(r'coredns/plugin/(\w+)"', main))
    ordered = re.findall(r'"(\w+)"', main[main.index("Directives") : main.index("func main")])

    assert named == imported == set(ordered)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tools", "go.mod"),
        ("tools", "go.sum"),
        ("tools", "coredns/main.go"),
        ("provider", "_sdk/kinds.go"),
    ],
)
def test_a_change_of_any_file_of_a_module_builds_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    (module,) = [each for each in build.TOOLS if each.name == name]
    shutil.copytree(build.MODULES / name, tmp_path / name)
    monkeypatch.setattr(build, "MODULES", tmp_path)
    before = build._digest(module)
    with (tmp_path / name / file).open("a") as changed:
        changed.write("\n")

    assert build._digest(module) != before


def test_the_provider_is_built_with_our_file_in_its_sdk_also_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {name: tmp_path / "modules" / name for name in ("provider", "sdk")}
    schema = modules["provider"] / "cmd" / "pulumi-resource-kubernetes"
    kinds = modules["sdk"] / "go" / "kubernetes" / "yaml" / "v2" / "kinds.go"
    for folder in (schema, kinds.parent):
        folder.mkdir(parents=True)
    for file in (schema / "schema.json", schema / "terraform-mapping.json", kinds):
        file.write_text("theirs")
        file.chmod(0o444)
    kinds.parent.chmod(0o555)  # as Go keeps modules
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    monkeypatch.setattr(
        build, "module_directory", lambda _, name: modules["sdk" if "/sdk/" in name else "provider"]
    )
    edited: list[Path] = []
    monkeypatch.setattr(build, "_go", lambda arguments, directory: edited.append(directory))

    for _ in range(2):
        work = build._provider_source(build.MODULES / "provider")

    ours = (build.MODULES / "provider" / "_sdk" / "kinds.go").read_text()
    assert (work.parent / "sdk" / kinds.relative_to(modules["sdk"])).read_text() == ours
    assert (work / "schema.json").read_text() == "theirs"
    assert (work / "main.go").exists()
    assert edited == [work, work]

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


@pytest.mark.parametrize("file", ["go.mod", "go.sum", "coredns/main.go"])
def test_a_change_of_any_file_of_a_module_builds_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (tools,) = [module for module in build.TOOLS if module.name == "tools"]
    shutil.copytree(build.MODULES / "tools", tmp_path / "tools")
    monkeypatch.setattr(build, "MODULES", tmp_path)
    before = build._digest(tools)
    with (tmp_path / "tools" / file).open("a") as changed:
        changed.write("\n")

    assert build._digest(tools) != before

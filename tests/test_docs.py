"""The documents name only tests, files and commands that exist."""

import re
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from packaging.version import Version

from holdfast import __version__
from testkit.factories import of_stack
from tests.e2e import recovery

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[a-z]*/*.md")])

_LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)
_TEST = re.compile(r"`((?:[a-z_]+/)*test_[a-z0-9_]+\.py)(?:::(test_[a-z0-9_]+))?`")
_PATH = re.compile(
    r"`((?:\.ci|\.github|bench|blueprints|cluster|docs|holdfast|images|infra|manifests|policy|sandbox|testkit"
    r"|tests|training)/[\w./-]*)`"
)
_HEADING = re.compile(r"^#+ (.+)$", re.M)
_ANCHOR = re.compile(r"\]\(([^)\s#]*)#([^)\s]+)\)")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = _CODE.sub("", page.read_text())
    missing = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to what is not there: {missing}"


def test_the_readme_leads_to_every_page() -> None:
    links = {(ROOT / link).resolve() for link in _LINK.findall((ROOT / "README.md").read_text())}
    pages = {*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), ROOT / "docs/decisions"}

    assert not pages - links - {ROOT / "README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    missing = []
    for link, anchor in _ANCHOR.findall(_CODE.sub("", page.read_text())):
        if not link.startswith(("http:", "https:")):
            target = page.parent / link if link else page
            headings = _HEADING.findall(target.read_text())
            if anchor not in {_anchor(heading) for heading in headings}:
                missing.append(f"{link}#{anchor}")
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    missing = [
        path
        for path in _PATH.findall(page.read_text())
        if not (ROOT / path).exists() and not (ROOT / "tests" / path).exists()
    ]
    assert not missing, f"{page.name} names what is not there: {missing}"


def test_the_picture_of_the_architecture_names_files_that_exist() -> None:
    picture = ElementTree.parse(ROOT / "docs/architecture.svg")
    named = " ".join(text.text or "" for text in picture.iter() if text.get("class") == "c")
    paths = re.findall(r"[a-z]+/[a-z_/]*(?:\.py)?", named)

    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_room_of_the_code_is_on_the_page_of_the_architecture() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = configuration["tool"]["importlinter"]["root_packages"]
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    folders = {file.parent.relative_to(ROOT) for file in files if ".venv" not in file.parts}
    rooms = {str(folder) for folder in folders if len(folder.parts) <= 2}
    page = (ROOT / "docs/architecture.md").read_text()

    unnamed = {room for room in rooms if f"`{room}/`" not in page}
    assert not unnamed, f"docs/architecture.md lacks {sorted(unnamed)}"


@pytest.mark.parametrize("page", ["features", "faults", "recovery"])
def test_every_test_that_a_table_of_tests_names_exists(page: str) -> None:
    missing = []
    for file, name in _TEST.findall((ROOT / f"docs/{page}.md").read_text()):
        path = ROOT / "tests" / file
        if not path.is_file() or (name and f"def {name}(" not in path.read_text()):
            missing.append(f"{file}::{name}" if name else file)
    assert not missing


def test_every_row_of_the_recovery_times_names_the_e2e_test_that_measured_it() -> None:
    table = (ROOT / "docs/recovery.md").read_text().partition(recovery.HEADER)[2]
    rows = [line for line in table.splitlines()[2:] if line]

    assert not [row for row in rows if not re.search(r"`e2e/test_\w+\.py::test_\w+`", row)]


def test_a_new_time_replaces_the_one_of_the_same_event_and_a_new_event_comes_last(
    tmp_path: Path,
) -> None:
    page = tmp_path / "recovery.md"
    page.write_text(
        f"# Times\n\n{recovery.HEADER}\n|---|---|---|---|---|\n| a | old |\n| b | 1 |\n"
    )

    recovery.write(page, [recovery.Row(event, f"e2e/test_{event}.py::test_it", "3 steps", 7.2)
                          for event in ("a", "c")])  # fmt: skip

    _, _, _, _, a, b, c = page.read_text().splitlines()
    assert a.startswith("| a | 3 steps | 7 s | `e2e/test_a.py::test_it` | 20")
    assert b == "| b | 1 |"
    assert c.startswith("| c | ")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/eks.md", "docs/sandbox.md"])
def test_every_make_command_that_a_guide_names_exists(page: str) -> None:
    known = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    code = re.findall(r"```console\n(.*?)```|`(make [^`]+)`", (ROOT / page).read_text(), re.S)
    named = {target for parts in code for target in _MAKE.findall(" ".join(parts))}
    assert named, f"{page} names no command"
    assert not {target for target in named if f"make {target} " not in known}


def test_the_version_in_development_is_newer_than_the_last_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changelog, re.M)

    assert "\n## [Unreleased]\n" in changelog
    assert sorted(released, key=Version, reverse=True) == released != []
    assert Version(__version__) >= Version(released[0])


def _anchor(heading: str) -> str:
    """The name that GitHub gives to a heading: lower case, no signs, hyphens for spaces."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def test_the_pod_to_work_in_reaches_the_volume_and_the_store_of_the_local_stack() -> None:
    page = (ROOT / "docs" / "recover.md").read_text()
    (printed,) = re.findall(r"```yaml\n(apiVersion: v1\nkind: Pod\n.*?)```", page, re.S)
    pod = yaml.safe_load(printed)["spec"]
    claims = {
        v["name"]: v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["volumes"]
    }
    mounted = {m["mountPath"]: claims[m["name"]] for m in pod["containers"][0]["volumeMounts"]}
    manifests = list(of_stack("local").kubernetes())
    settings = next(m for m in manifests if m["metadata"]["name"] == "holdfast-checkpoints-pvc"
                    and m["kind"] == "ConfigMap")["data"]  # fmt: skip
    store = Path(settings["HOLDFAST_STORE"].removeprefix("file://"))
    assert mounted["/volume"] == "checkpoints-pvc"
    assert any(claim == "holdfast-store-pvc" and store.is_relative_to(path)
               for path, claim in mounted.items())  # fmt: skip
    accounts = {m["metadata"]["name"] for m in manifests if m["kind"] == "ServiceAccount"}
    assert pod["serviceAccountName"] in accounts

"""The documents name only tests, files and commands that exist."""

import re
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from holdfast import __version__

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("images/*.md")])

_LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)
_TEST = re.compile(r"`((?:[a-z_]+/)*test_[a-z0-9_]+\.py)(?:::(test_[a-z0-9_]+))?`")
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = _CODE.sub("", page.read_text())
    missing = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to what is not there: {missing}"


@pytest.mark.parametrize("page", ["features", "faults"])
def test_every_test_that_a_table_of_tests_names_exists(page: str) -> None:
    missing = []
    for file, name in _TEST.findall((ROOT / f"docs/{page}.md").read_text()):
        path = ROOT / "tests" / file
        if not path.is_file() or (name and f"def {name}(" not in path.read_text()):
            missing.append(f"{file}::{name}" if name else file)
    assert not missing


def test_every_make_command_that_the_readme_names_exists() -> None:
    known = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    code = re.findall(
        r"```console\n(.*?)```|`(make [^`]+)`", (ROOT / "README.md").read_text(), re.S
    )
    named = {target for parts in code for target in _MAKE.findall(" ".join(parts))}
    assert named, "the README names no command"
    assert not {target for target in named if f"make {target} " not in known}


def test_the_version_in_development_is_newer_than_the_last_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changelog, re.M)

    assert "\n## [Unreleased]\n" in changelog
    assert sorted(released, key=Version, reverse=True) == released != []
    assert Version(__version__) >= Version(released[0])

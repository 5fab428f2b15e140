"""The story of `make demo-pipeline`: its parts, and the whole of it for real."""

import base64
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from sandbox.demo import pipeline_report, screenshot
from sandbox.demo.damage import flip
from sandbox.demo.narrator import Narrator
from sandbox.demo.pipeline_story import PipelineStory, Row
from sandbox.demo.promises import Promise
from tests.sandbox.tiny import PROJECT


def story(kept: bool = True) -> PipelineStory:
    return PipelineStory(
        "pipeline",
        promises=[Promise("nothing <is> lost", kept, "1 & 1")],
        rows=[Row("pulled the newest snapshot", 2.5, 50_000_000, 400)],
        counts={"the older snapshot": {"run": 1}, "the newer snapshot": {"run": 2, "alias": 1}},
        seconds=99.0,
    )


def test_the_report_loads_nothing_from_elsewhere_and_escapes_what_it_shows(tmp_path: Path) -> None:
    told = story()
    told.pictures["before"] = tmp_path / "page.png"
    told.pictures["before"].write_bytes(b"\x89PNG")
    page = pipeline_report.render(told)

    assert set(re.findall(r'(?:src|href)="([^"]{0,15})', page)) == {"data:image/png;"}
    assert not re.search(r"@import|https?://|url\(", page)
    assert "nothing &lt;is&gt; lost" in page


def test_a_broken_promise_is_the_headline() -> None:
    assert "<h1>1 of 1 promises broken</h1>" in pipeline_report.render(story(kept=False))
    assert "<h1>Every promise was kept</h1>" in pipeline_report.render(story())


def test_the_report_shows_what_each_moment_held() -> None:
    page = pipeline_report.render(story())

    assert "<td>alias</td><td>0</td><td>1</td>" in page
    assert "<td>run</td><td>1</td><td>2</td>" in page


@pytest.mark.pipeline
def test_contents_differ_by_what_is_missing_new_or_changed() -> None:
    from sandbox.demo.contents import counts, differences

    before = {("run", "a"): 1, ("metric", "a loss"): 0.5, ("alias", "m@p"): "1"}
    after = {("run", "a"): 1, ("metric", "a loss"): 0.6, ("run", "b"): 1}

    assert differences(before, after) == ["alias m@p", "metric a loss", "run b"]
    assert not differences(before, dict(before))
    assert counts(before) == {"run": 1, "metric": 1, "alias": 1}


def test_a_bit_that_flips_twice_is_as_before(tmp_path: Path) -> None:

    file = tmp_path / "dump"
    file.write_bytes(bytes(100))
    flip(file)
    once = file.read_bytes()
    flip(file)

    assert sum(byte != 0 for byte in once) == 1
    assert file.read_bytes() == bytes(100)


@pytest.mark.pipeline
def test_without_a_browser_the_story_goes_on_and_shows_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox.demo.pipeline import PipelineDemo

    monkeypatch.setattr(screenshot, "BROWSERS", ())
    demo = PipelineDemo(tmp_path / "s", tmp_path / "r.html", "pipeline", 60, as_json=True)
    with demo._pictured("before"):
        pass

    assert demo.story.pictures == {}


@pytest.mark.pipeline
def test_the_reason_of_a_refused_restore_is_told_in_the_words_of_its_task() -> None:
    from sandbox.demo.pipeline import _reason

    error = (
        "holdfast: ActionSet r failed (pod r-examine failed: snapshot 1 has 1 problem: 1 MiB\n"
        'problem: bundle d: has other bytes \\x23##Phase-output###: {"key": "ok"}): see `kubectl`'
    )
    assert _reason(error) == "bundle d: has other bytes"


def test_what_a_demo_prints_is_left_as_json_beside_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrator = Narrator(True, [Promise("nothing is lost", True, "1 of 1")])
    narrator.end(("event",), [("a",)], 1.0, {"counts": {}}, tmp_path / "r.html", tmp_path / "s")

    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "r.json").read_text())
    assert "1 promise kept, 0 broken" in printed.err


def test_a_browser_sees_the_page_logged_in_at_an_address_without_a_password() -> None:
    seen: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers['Authorization']}")
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        threading.Thread(target=page.serve_forever, args=[0.01], daemon=True).start()
        with screenshot.logged_in(f"http://127.0.0.1:{page.server_port}", "admin", "pw") as url:
            opener = build_opener(ProxyHandler({}))
            body = opener.open(f"{url}/models?x=1").read()
        page.shutdown()

    login = base64.b64encode(b"admin:pw").decode()
    assert (body, seen) == (b"ok", [f"/models?x=1 Basic {login}"])
    assert "admin" not in url


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """What the demo told as JSON.

    `make demo-pipeline` leaves it: a run of this very code is not repeated, so that it counts once
    where both are run, as in `.ci/run`.
    """
    left = PROJECT / "report" / "pipeline.json"
    if left.exists() and left.stat().st_mtime > max(map(_changed, _CODE)):
        return json.loads(left.read_text())
    command = [sys.executable, "-m", "sandbox", "demo-pipeline", "--output", "json"]
    command += ["--state", str(tmp_path / "s"), "--report", str(tmp_path / "report.html")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "s").exists(), "what it made is removed"
    return json.loads(done.stdout)


#: what the demo runs
_CODE = ("sandbox", "holdfast", "training", "infra", "blueprints", "manifests", "images",
         "Pulumi.pipeline.yaml", "Pulumi.yaml", "requirements-pipeline.txt")  # fmt: skip


def _changed(name: str) -> float:
    place = PROJECT / name
    files = [place] if place.is_file() else place.rglob("*.*")
    return max(each.stat().st_mtime for each in files if each.suffix != ".pyc")


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.torch
def test_a_lost_pipeline_comes_back_whole_and_damage_is_refused(told: dict[str, Any]) -> None:
    counts, promises = told["counts"], [promise["text"] for promise in told["promises"]]

    assert told["kept"]
    assert len(promises) == 12
    assert counts["restored: the newest snapshot"] == counts["the newer snapshot"]
    assert counts["restored: the snapshot before it"] == counts["the older snapshot"]
    for about in ("run, metric, artifact", "dataset is back", "served model is back",
                  "killed in a save, goes on", "flipped in the store"):  # fmt: skip
        assert any(about in promise for promise in promises)
    assert Path(told["report"]).name in ("pipeline.html", "report.html")

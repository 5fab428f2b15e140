"""The model server: it answers from the newest bundle that verifies, and always the same."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.assets.add import add
from holdfast.assets.get import get_on_volume
from holdfast.store import open_store
from holdfast.store.snapshot import Catalog
from holdfast.volume import Volume
from tests.training.lab import Lab
from training.config import Config
from training.serve import NothingToServe, Served, Server, open_newest

pytestmark = pytest.mark.torch


@pytest.fixture
def served(lab: Lab, undisturbed: Lab) -> Lab:
    """A volume with two bundles of a finished training."""
    return lab.copy_of(undisturbed, 8, 12)


def config(lab: Lab, **changed: Any) -> Config:
    """What a server is told: not the shape, which the bundle says."""
    return Config.model_validate({"volume": lab.root / "volume", "run": "lab"} | changed)


@pytest.fixture
def server(served: Lab) -> Iterator[Server]:
    made = Server(open_newest(config(served)), 0)
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join()


def ask(server: Server, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_health_names_the_newest_bundle(server: Server, served: Lab):
    status, answer = ask(server, "/health")

    assert status == 200
    assert answer["model"]["name"] == "step-00000012"
    assert answer["model"]["content"] == served.contents()[12]
    assert answer["model"]["step"] == 12


def test_equal_models_give_equal_answers(server: Server, served: Lab):
    body = json.dumps({"text": "hold fast", "tokens": 24}).encode()
    first, again = ask(server, "/predict", body), ask(server, "/predict", body)
    anew = Server(open_newest(config(served)), 0).predict({"text": "hold fast", "tokens": 24})

    assert first[0] == 200
    assert len(first[1]["text"]) == 24
    assert first == again
    assert first[1] == anew


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "text is missing"),
        (b'{"text": "a", "tokens": 0}', "give 1 to 256"),
        (b'{"text": "a", "tokens": "9"}', "give 1 to 256"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_with_it(server: Server, body: bytes, reason: str):
    status, answer = ask(server, "/predict", body)

    assert status == 400
    assert reason in answer["error"]


def test_another_path_is_told_which_there_are(server: Server):
    assert ask(server, "/metrics") == (
        404,
        {"error": "/metrics is not known: use GET /health or POST /predict"},
    )


def test_a_damaged_bundle_is_never_served(served: Lab):
    """Its `.metadata` is a pickle: no byte of it is loaded before all are compared."""
    (data, *_) = sorted(served.bundle(12).glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)

    assert open_newest(config(served)).bundle.name == "step-00000008"
    assert served.bundle(12).exists()  # a server that only reads sets nothing aside


def test_an_empty_volume_is_refused_by_name(lab: Lab):
    with pytest.raises(NothingToServe, match="no valid bundle of run lab"):
        open_newest(config(lab))


def on_volume(lab: Lab, folder: Path) -> Path:
    """An application's volume with the model that was added from this folder."""
    (lab.root / "store").mkdir()
    catalog = Catalog(open_store((lab.root / "store").as_uri()), "project/stack")
    add(catalog, "model", folder, "churn", "1")
    get_on_volume(catalog, "churn:1", Volume(lab.root / "application", "serving", "model"))
    return lab.root / "application"


def test_a_checkpoint_that_became_a_model_is_served_without_being_told_its_shape(served: Lab):
    volume = on_volume(served, served.bundle(12))

    model = open_newest(config(served, volume=volume, run="serving"), "model")

    assert model.block == 32
    assert model.bundle.manifest.content == served.contents()[12]
    assert model.bundle.manifest.labels["run"] == "content"
    same = open_newest(config(served))
    assert model.continuation(b"hold", 8) == same.continuation(b"hold", 8)


def test_a_model_without_a_shape_must_fit_the_settings(served: Lab):
    """One that was added from a folder, which had no labels."""
    (served.bundle(12) / "MANIFEST.json").unlink()
    volume = on_volume(served, served.bundle(12))

    def opened(**settings: Any) -> Served:
        return open_newest(config(served, volume=volume, run="serving", **settings), "model")

    assert opened(preset="tiny").block == 32
    with pytest.raises(NothingToServe, match="is not a 'gpt layers=4 width=256 heads=4 block=128'"):
        opened()


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(served: Lab, tmp_path: Path):
    environment = {
        **os.environ,
        "HOLDFAST_VOLUME": str(served.root / "volume"),
        "HOLDFAST_RUN": "lab",
        "HOLDFAST_PORT": "0",
    }
    command = [sys.executable, "-m", "training.serve"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert line.startswith("serving step-00000012 (")

    empty = {**environment, "HOLDFAST_VOLUME": str(tmp_path)}
    refused = subprocess.run(command, env=empty, capture_output=True, text=True)
    assert refused.returncode == 76
    assert refused.stderr.startswith("serve: no valid bundle of run lab is on volume")

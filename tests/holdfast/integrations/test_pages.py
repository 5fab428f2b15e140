"""The pages of docs/frameworks, followed word for word."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.volume import Volume
from tests.holdfast.integrations.kills import needs

ROOT = Path(__file__).parents[3]

pytestmark = [*needs("transformers", "lightning", "accelerate"), pytest.mark.slow]


def script(page: str) -> str:
    """The first block of Python on a page."""
    text = (ROOT / "docs/frameworks" / f"{page}.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.S)[0]


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.02)


@pytest.mark.parametrize("page", ["transformers", "lightning", "accelerate", "dcp"])
def test_the_script_of_a_page_survives_a_stop_and_a_kill(page: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script(page))
    (volume := tmp_path / "volume").mkdir()
    run = Volume(volume, "mine")

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=os.environ
            | {"HOLDFAST_VOLUME": str(volume), "HOLDFAST_RUN": "mine", "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    stopped = start()
    wait_for(run.bundles, stopped)
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=120)
    assert stopped.returncode == 75, errors
    newest = run.bundles()[0]
    assert f"stopped: step {newest.step} is saved" in errors

    killed = start()
    wait_for(lambda: run.bundles()[0].name != newest.name, killed)
    killed.send_signal(signal.SIGKILL)
    _, errors = killed.communicate(timeout=120)
    assert f"resuming from {newest.name}" in errors

    last = start()
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert "resuming from step-" in errors
    assert len(run.bundles()) == 3

"""What `up` changes under a training: its template while it saves, its volume when it is gone."""

from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from tests.e2e import inspector, kube
from tests.e2e.conftest import Stack
from tests.e2e.inspector import inspect
from tests.e2e.runs import HELD, INTERVAL, JOB, SETTINGS, Run, hold, instead_of

pytestmark = pytest.mark.e2e
_HERE = f"--namespace={kube.NAMESPACE}"
CLAIM, VOLUME = "checkpoints-pvc", "checkpoints-vol"
SAVED = (HELD - 1) * INTERVAL


@pytest.fixture(scope="module")
def calm(stack: Stack) -> dict[str, Any]:
    with instead_of() as runs:
        return runs.calm()


def test_a_changed_template_waits_for_a_save_of_15_seconds(
    changing: Stack, calm: dict[str, Any]
) -> None:
    changing.up(workload=short("template", held=True))
    run = Run("template")
    pod, step = run.in_a_save()
    with (
        ThreadPoolExecutor() as pool,
        kube.timed("Job template changed by `up`, while a save lasts for 15 s more") as row,
    ):
        up = pool.submit(changing.up, workload=short("template"))
        try:
            kube.wait("the trainer has its SIGTERM", run.asked_to_stop)
            since = monotonic()
            kube.wait("15 s", lambda: alone(run, pod) and monotonic() > since + 15)
        finally:
            run.release()
        up.result(timeout=240)
        row.lost = run.goes_on(step)

    assert row.lost == "nothing"
    run.ends_as(calm)


def test_a_volume_that_is_gone_with_its_claim_is_refilled_from_the_store(
    changing: Stack, calm: dict[str, Any]
) -> None:
    changing.up(workload=short("refilled", held=True))
    run = Run("refilled")
    _, step = run.in_a_save()
    backup = kube.holdfast("backup", f"--workload={JOB}", _HERE, f"--claim={CLAIM}")
    assert backup.returncode == 0, backup.stderr

    with kube.timed("claim, PersistentVolume and all data gone: `up --refresh`") as row:
        destroy()
        engine = changing.engine()
        engine.refresh()
        engine.up()
        row.lost = run.goes_on(step, SAVED)

    assert "pulled" in run.log(container="recover")
    run.ends_as(calm)


def short(run: str, *, held: bool = False) -> dict[str, Any]:
    """Settings of a short training, whose sixth save is held or whose environment is another."""
    command = ["env", f"HOLDFAST_FAILPOINT={hold(run)}"] if held else ["env", "CHANGED=1"]
    return {"run": run, "env": SETTINGS, "command": [*command, "python", "-m", "training"]}


def alone(run: Run, pod: str) -> bool:
    """Whether this is the only trainer; a second one would write to the same volume."""
    assert run.pods() == [pod]
    return True


def destroy() -> None:
    """The Job with its pod, then every byte of the volume, its claim and its PersistentVolume."""
    # Orphaned, so that nothing gives the pod the long grace first: it could not be shortened.
    kube.kubectl("delete", "job", JOB, _HERE, "--cascade=orphan")
    kube.kubectl("delete", "pod", f"--selector={kube.TRAINER}", _HERE, "--grace-period=1")
    inspect("find", "/volume", "-mindepth", "1", "-delete")
    inspector.remove()
    kube.kubectl("delete", "pvc", CLAIM, _HERE, "--wait=false")
    kube.kubectl("delete", "pv", VOLUME, "--wait=false")
    kube.wait("claim and volume are gone",
              lambda: (kube.get("pvc", CLAIM), kube.get("pv", VOLUME)) == (None, None))  # fmt: skip

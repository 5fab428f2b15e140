"""`holdfast watch`: what a framework finishes becomes a bundle, what it still writes does not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.bundle import verify
from holdfast.errors import UsageError
from holdfast.integrations.watch import Watch
from holdfast.recovery.writers import Superseded, WriterPresent, no_writers
from holdfast.volume import Volume
from tests.holdfast.integrations.kills import needs


class Watched:
    """A framework's directory and who watches it."""

    def __init__(self, folder: Path, rule: str = "done", pattern: str = "checkpoint-*") -> None:
        self.out = folder / "out"
        self.out.mkdir()
        self.volume = Volume(folder / "volume", "lab")
        self.said: list[str] = []
        self._rule, self._pattern = rule, pattern
        self.again()

    def again(self) -> None:
        """As a pod that starts."""
        self.watch = Watch(self.out, self._pattern, self._rule, self.volume, 3, self.said.append)

    def write(self, step: int, done: bool = True) -> Path:
        path = self.out / f"checkpoint-{step}"
        path.mkdir(exist_ok=True)
        (path / "weights").write_text(f"weights {step}")
        if done:
            (path / "done").touch()
        return path

    def look(self) -> list[int | None]:
        return [bundle.step for bundle in self.watch.look()]


@pytest.fixture
def watched(folder: Path) -> Watched:
    return Watched(folder)


def test_what_is_finished_becomes_a_bundle_once_and_stays_where_it_was(watched: Watched) -> None:
    source = watched.write(2)
    assert watched.look() == [2]
    assert watched.look() == []

    assert (source / "weights").exists()
    verify(watched.volume.bundles()[0].path)


def test_what_is_still_written_becomes_one_when_it_is_finished(watched: Watched) -> None:
    watched.write(2, done=False)
    assert watched.look() == []
    watched.write(2)
    assert watched.look() == [2]


def test_bundles_that_keep_k_removed_do_not_come_back(watched: Watched) -> None:
    for step in range(1, 6):
        watched.write(step)
    assert watched.look() == [1, 2, 3, 4, 5]
    assert watched.look() == []
    assert [bundle.step for bundle in watched.volume.bundles()] == [5, 4, 3]


def test_what_changes_while_it_is_copied_is_no_bundle(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast import durable

    source = watched.write(2)
    copy = durable.copy_file

    def copy_then_write(src: Path, dst: Path) -> tuple[str, int]:
        copied = copy(src, dst)
        (source / "weights").write_text("weights of another step")
        return copied

    with monkeypatch.context() as patched:
        patched.setattr(durable, "copy_file", copy_then_write)
        assert watched.look() == []
    assert "changed while it was copied" in watched.said[0]
    assert watched.volume.bundles() == []
    assert watched.look() == [2]


def test_a_name_without_a_number_is_said_once(watched: Watched) -> None:
    (watched.out / "checkpoint-last").mkdir()
    watched.look()
    watched.look()
    assert len(watched.said) == 1
    assert "its step is unknown" in watched.said[0]


@pytest.mark.parametrize("rule", ["/etc/passwd", "../done", "."])
def test_a_rule_that_looks_elsewhere_is_refused(rule: str, folder: Path) -> None:
    with pytest.raises(UsageError, match="invalid rule"):
        Watched(folder, rule)


def test_at_sigterm_the_command_looks_once_more(folder: Path) -> None:
    watched = Watched(folder)
    watched.write(1)
    command = ["-m", "holdfast", "watch", str(watched.out), "--complete-when", "done"]
    process = subprocess.Popen(
        [
            sys.executable,
            *command,
            "--every",
            "3600",
            "--volume",
            folder / "volume",
            "--run",
            "lab",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 60
    while not watched.volume.bundles():  # the first look; the next is in an hour
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    watched.write(2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert watched.volume.bundles()[0].step == 2


def in_a_process(script: str, folder: Path, **environment: str) -> str:
    """What the script prints: JAX has threads, which forks of other tests would not survive."""
    done = subprocess.run(
        [sys.executable, "-c", script, folder],
        cwd=Path(__file__).parents[3],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ORBAX = """
import sys
from pathlib import Path
import jax.numpy as jnp
import orbax.checkpoint as ocp
from holdfast.integrations.watch import RENAMED
from tests.holdfast.integrations.test_watch import Watched, verify

watched = Watched(Path(sys.argv[1]), RENAMED, "[0-9]*")
with ocp.CheckpointManager(
    watched.out, options=ocp.CheckpointManagerOptions(max_to_keep=1)
) as manager:
    for step in (1, 2):
        state = {"weights": jnp.arange(4.0) * step}
        manager.save(step, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
        assert watched.look() == [step]
bundle = verify(watched.volume.bundles()[1].path)  # Orbax itself has removed this step
print(ocp.StandardCheckpointer().restore(bundle.path / "default")["weights"].tolist())
"""


@pytest.mark.frameworks
@pytest.mark.slow
@needs("orbax")[1]
def test_the_steps_of_orbax_become_bundles_that_it_restores(folder: Path) -> None:
    assert in_a_process(ORBAX, folder, JAX_PLATFORMS="cpu") == "[0.0, 1.0, 2.0, 3.0]\n"


def test_what_a_framework_writes_after_a_restore_it_did_not_see_becomes_no_bundle(
    watched: Watched,
) -> None:
    watched.write(2)
    watched.look()
    with pytest.raises(WriterPresent), no_writers(watched.volume, patience=0):
        pass
    watched.volume.generation_path(2).mkdir()
    watched.write(4)

    with pytest.raises(Superseded):
        watched.look()
    assert watched.volume.bundles() == []


KERAS = """
import sys
from pathlib import Path
import keras
import numpy as np
from tests.holdfast.integrations.test_watch import Watched, verify

watched = Watched(Path(sys.argv[1]), "done", "epoch-*")
x = np.arange(64, dtype="float32").reshape(16, 4) / 64

def model():
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
    made.build((None, 4))
    made.compile("adam", "mse")
    return made

def fit(model, epochs, first=0, callbacks=()):
    model.fit(x, x[:, :1], batch_size=4, shuffle=False, epochs=epochs, initial_epoch=first,
              callbacks=list(callbacks), verbose=0)

def folder(epoch):
    return watched.out / f"epoch-{epoch + 1}"

def finish(epoch, logs):
    assert watched.look() == []  # its weights are there, its last file is not
    (folder(epoch) / "done").touch()
    assert watched.look() == [epoch + 1]

undisturbed = model()
fit(undisturbed, 3)

path = str(watched.out / "epoch-{epoch}" / "model.weights.h5")
interrupted = model()
fit(interrupted, 2, callbacks=[
    keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: folder(epoch).mkdir()),
    keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
    keras.callbacks.LambdaCallback(on_epoch_end=finish),
])

bundle = verify(watched.volume.bundles()[0].path)
resumed = model()
resumed.optimizer.build(resumed.trainable_variables)  # else Keras leaves its state out
resumed.load_weights(bundle.path / "model.weights.h5")
fit(resumed, 3, first=bundle.step)
assert all(np.array_equal(a, b) for a, b in zip(undisturbed.get_weights(), resumed.get_weights()))
print(keras.backend.backend(), bundle.step)
"""


@pytest.mark.frameworks
@pytest.mark.slow
@needs("keras")[1]
def test_the_epochs_of_keras_become_bundles_and_a_fit_goes_on_from_one(folder: Path) -> None:
    assert in_a_process(KERAS, folder, KERAS_BACKEND="torch") == "torch 2\n"


def restored_to(volume: Volume, step: int) -> None:
    """What a switch leaves: a generation with the bundle of that step alone."""
    (bundle,) = [each for each in volume.bundles() if each.step == step]
    made = volume.generation_path((volume.present() or 1) + 1)
    shutil.copytree(bundle.path, made / bundle.name)


def test_what_a_restore_left_in_the_directory_becomes_no_bundle_again(watched: Watched) -> None:
    for step in (2, 4, 6):
        watched.write(step)
    assert watched.look() == [2, 4, 6]
    watched.watch.close()
    restored_to(watched.volume, 2)

    watched.again()
    assert watched.look() == []
    assert "checkpoint-4' was there before generation 2 began" in watched.said[-2]
    shutil.rmtree(watched.out / "checkpoint-4")
    watched.write(4)  # the framework comes to this step once more, from the restored one
    assert watched.look() == [4]


def test_what_is_finished_while_no_watch_runs_is_of_the_present_generation(
    watched: Watched,
) -> None:
    watched.write(2)
    watched.look()
    watched.watch.close()
    restored_to(watched.volume, 2)
    watched.again()
    watched.watch.close()
    watched.write(4)

    watched.again()
    assert watched.look() == [4]

"""Whole trainings on two ranks: killed, starved, damaged, resumed."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from holdfast.recovery.writers import WriterPresent, no_writers
from tests.training.lab import Lab, alive, command, until
from training.crash_loop import FILE
from training.outcome import Outcome

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_two_undisturbed_trainings_write_the_same_contents(lab: Lab, undisturbed: Lab) -> None:
    assert lab.train() is Outcome.DONE

    assert lab.contents() == undisturbed.contents()


def test_ranks_killed_in_the_middle_of_a_save_go_on_from_the_bundle_before(
    lab: Lab, undisturbed: Lab
) -> None:
    assert lab.train("save.shard-written@3=kill", max_restarts=2) is Outcome.DONE

    assert [event["step"] for event in lab.events("resume")] == [8]
    assert lab.events("resume")[0]["differences"] == []
    assert lab.contents() == undisturbed.contents()
    assert not list(lab.volume.generation_path(1).glob(".tmp-*"))


def test_a_training_resumed_from_an_older_bundle_ends_bit_for_bit_the_same(
    lab: Lab, undisturbed: Lab
) -> None:
    lab.copy_of(undisturbed, 4)

    assert lab.train() is Outcome.DONE

    assert [event["step"] for event in lab.events("resume")] == [4]
    assert lab.contents() == undisturbed.contents()


def test_bundles_with_a_flipped_bit_are_set_aside_and_the_one_before_them_is_used(
    lab: Lab, undisturbed: Lab
) -> None:
    lab.copy_of(undisturbed, 4, 8, 12)
    lab.flip_a_bit(12, ".metadata")
    lab.flip_a_bit(8, "MANIFEST.json")

    assert lab.train() is Outcome.DONE

    aside = {event["bundle"] for event in lab.events("quarantine")}
    assert aside == {"step-00000008", "step-00000012"}
    assert [event["step"] for event in lab.events("resume")] == [4]
    assert lab.contents() == undisturbed.contents()


def test_fsdp_killed_and_resumed_ends_with_the_weights_and_moments_of_ddp(
    lab: Lab, undisturbed: Lab, tmp_path: Path
) -> None:
    killed = "save.shard-written@3=kill"
    assert lab.train(killed, parallel="fsdp", max_restarts=2) is Outcome.DONE

    assert [event["step"] for event in lab.events("resume")] == [8]
    ours = whole_state(lab.bundle(12), tmp_path / "fsdp")
    theirs = whole_state(undisturbed.bundle(12), tmp_path / "ddp")
    assert ours["progress"] == theirs["progress"] == {"step": 12, "consumed": 96}
    for part in ("model", "optimizer"):
        mine, other = tensors(ours[part]), tensors(theirs[part])
        assert mine.keys() == other.keys()
        assert [key for key in mine if not torch.equal(mine[key], other[key])] == []


def test_another_number_of_ranks_goes_on_with_the_very_same_samples(lab: Lab) -> None:
    assert lab.train(ranks=1, dropout=0.0, batch=9) is Outcome.DONE
    alone = losses(lab)
    for step in (8, 12):
        lab.volume.generation_path(1).joinpath(f"step-{step:08d}").rename(lab.root / f"old-{step}")

    assert lab.train(ranks=2, dropout=0.0, batch=9) is Outcome.DONE

    resumed = lab.events("resume")[0]
    assert resumed["step"] == 4
    assert [text.partition(":")[0] for text in resumed["differences"]] == ["layout"]
    together = losses(lab)
    # The same batches of 9, 5 samples for one rank and 4 for the other, reduced in another order of
    # additions; other batches differ by far more.
    assert together == pytest.approx(alone, abs=2e-4)
    assert max(abs(alone[s] - alone[s - 1]) for s in range(6, 13)) > 2e-3
    newest = lab.volume.bundles()[0]
    assert newest.manifest.labels["samples"] == 108
    assert newest.manifest.labels["world_size"] == 2


def test_a_save_that_fails_on_every_rank_or_on_one_does_not_end_the_training(
    lab: Lab, undisturbed: Lab
) -> None:
    # Save 1 fails on both ranks, save 2 on the committing one, save 3 is left in peace.
    failing = "save.shard-written@1=enospc,commit.before-rename@1=raise"

    assert lab.train(failing) is Outcome.DONE

    failed = lab.events("save-failed")
    assert [event["step"] for event in failed] == [4, 8]
    assert "keep fewer bundles or enlarge the volume" in failed[0]["reason"]
    assert "rank 0" in failed[1]["reason"]
    assert lab.contents() == {12: undisturbed.contents()[12]}
    assert not list(lab.volume.generation_path(1).glob(".tmp-*"))


def test_a_save_that_falls_due_while_one_is_in_flight_is_skipped_and_counted(lab: Lab) -> None:
    assert lab.train(save_every=1, when_busy="skip", steps=20, keep=2) is Outcome.DONE

    saved = [event["step"] for event in lab.events("save")]
    skipped = [event["step"] for event in lab.events("save-skipped")]
    assert sorted(saved + skipped) == list(range(1, 21))
    assert skipped
    assert sorted(lab.contents()) == saved[-2:]


def test_a_training_that_always_dies_at_the_same_place_gives_up_for_good(lab: Lab) -> None:
    assert lab.train("save.shard-written=kill", max_restarts=9, attempts=2) is Outcome.REFUSED

    assert lab.contents() == {}
    assert json.loads((lab.volume.run_path / FILE).read_text())["starts"] == 3
    # The count is on the volume: the next pod refuses at once, before it starts any rank.
    before = lab.metrics.read_text()
    assert lab.train(attempts=2) is Outcome.REFUSED
    assert lab.metrics.read_text() == before


def test_a_volume_with_only_bad_bundles_never_starts_at_step_0(lab: Lab, undisturbed: Lab) -> None:
    lab.copy_of(undisturbed, 4)
    lab.flip_a_bit(4)

    assert lab.train() is Outcome.REFUSED

    assert lab.events("step") == []
    assert len(lab.volume.quarantined()) == 1


def test_a_recovered_state_that_is_gone_again_asks_for_another_pod(lab: Lab) -> None:
    decision = lab.root / "decision.json"
    decision.write_text(json.dumps({"decision": "pulled", "bundle": "step-00000004"}))

    assert lab.train(decision=decision) is Outcome.RECOVER

    assert lab.events("step") == []


def test_a_model_of_another_shape_is_refused_and_no_bundle_is_harmed(
    lab: Lab, undisturbed: Lab
) -> None:
    lab.copy_of(undisturbed, 4)

    assert lab.train(layers=3) is Outcome.REFUSED

    assert list(lab.contents()) == [4]
    assert "layers=2" in lab.events("refused")[0]["reason"]


def test_sigterm_to_all_processes_saves_the_step_it_met_and_ends_with_75(lab: Lab) -> None:
    with command(lab, steps=100_000, save_every=1000) as process:
        until(lambda: len(lab.events("step")) >= 3, process)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == Outcome.STOPPED.exit_code == 75

    last = lab.events("step")[-1]["step"]
    assert [event["step"] for event in lab.events("stop")] == [last]
    assert list(lab.contents()) == [last]
    assert not (lab.volume.run_path / FILE).exists()


def test_an_entry_process_killed_in_the_middle_of_a_save_takes_its_ranks_along(
    lab: Lab, undisturbed: Lab
) -> None:
    held = lab.root / "held"
    environment = {"HOLDFAST_FAILPOINT": f"commit.before-rename@2=hold:{held}"}
    with command(lab, environment) as process:
        until(held.exists, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        rank = int(held.read_text())
        until(lambda: not alive(rank), None)
    assert list(lab.contents()) == [4]

    assert lab.train() is Outcome.DONE

    assert [event["step"] for event in lab.events("resume")] == [4]
    assert lab.contents() == undisturbed.contents()


def test_a_training_that_a_restore_left_behind_goes_on_from_what_was_restored(lab: Lab) -> None:
    """Its pause did not hold, and its file system shows nobody that it runs."""
    held = lab.root / "held"
    environment = {"HOLDFAST_FAILPOINT": f"commit.before-rename@2=hold:{held}"}
    with command(lab, environment, max_restarts=1) as process:
        until(held.exists, process)
        with pytest.raises(WriterPresent), no_writers(lab.volume, patience=0):
            pass
        restored = lab.volume.run_path / ".restored"
        shutil.copytree(lab.volume.generation_path(1), restored)
        restored.rename(lab.volume.generation_path(2))
        held.unlink()
        until(held.exists, process)  # the ranks that were started anew save for the second time
        assert [event["generation"] for event in lab.events("resume")] == [2]
        held.unlink()
        assert process.wait(timeout=90) == Outcome.DONE.exit_code

    steps = {n: [bundle.step for bundle in lab.volume.bundles(n)] for n in (1, 2)}
    assert steps == {1: [8, 4], 2: [12, 8, 4]}  # the save that was under way was its last


def losses(lab: Lab) -> dict[int, float]:
    """The last loss that was reported for each step."""
    return {event["step"]: event["loss"] for event in lab.events("step")}


def whole_state(bundle: Path, file: Path) -> dict[str, Any]:
    """A bundle's state with all shards put together."""
    dcp_to_torch_save(bundle, file)
    return torch.load(file, weights_only=False)


def tensors(tree: Any, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    if isinstance(tree, dict):
        return {k: v for key in tree for k, v in tensors(tree[key], f"{name}.{key}").items()}
    return {}

"""torchtitan: its checkpoint manager, with bundles instead of `step-N` directories.

    from holdfast.integrations.torchtitan import HoldfastManager

    checkpoint=HoldfastManager.Config(interval=100)  # instead of CheckpointManager.Config(…)

`docs/frameworks/dcp.md` says what this guarantees, and what of it was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchtitan.components.checkpoint import AsyncMode, CheckpointManager

from holdfast.errors import UsageError
from holdfast.integrations.dcp import Checkpoints
from holdfast.integrations.run import exit_codes


class HoldfastManager(CheckpointManager):
    """Saves bundles in the background, loads the newest that verifies, stops after a save.

    HOLDFAST_VOLUME, HOLDFAST_RUN and HOLDFAST_KEEP say where they are and how many stay. torchtitan
    comes to `save` after each step, and that is where SIGTERM is looked at.
    """

    # One of its own: a class that inherits it would not be the one that is built.
    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """`folder` is not used: bundles lie on the volume."""

        enable: bool = True
        last_save_model_only: bool = False
        keep_latest_k: int = 0

        def __post_init__(self) -> None:
            CheckpointManager.Config.__post_init__(self)
            with exit_codes():
                if problems := _problems(self):
                    raise UsageError("; ".join(problems))

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        if not self.enable:
            return
        self._stop = False
        self._checkpoints = Checkpoints()
        self.folder = str(self._checkpoints.parent)

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> None:
        """Begin a save; the one before it is complete then."""
        self._checkpoints.save(state_dict, int(checkpoint_id.rpartition("-")[2]))

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        self._stop = self._checkpoints.stop_agreed()
        saved: bool = super()._save(curr_step, last_step)
        if last_step or self._stop:
            self._checkpoints.end(stopped=not last_step)
        return saved

    def _should_save(self, curr_step: int, last_step: bool = False) -> bool:
        due: bool = super()._should_save(curr_step, last_step)
        return due or (self._stop and not self.load_only)

    def _find_load_step(self, folder: str = "") -> int:
        bundle = self._checkpoints.newest
        return -1 if bundle is None or bundle.step is None else bundle.step

    def _create_checkpoint_id(self, step: int, folder: str = "") -> str:
        return f"{folder or self.folder}/step-{step:08d}"


def _problems(config: Any) -> list[str]:
    """Every setting that would make bundles that cannot be resumed, or go past them."""
    problems = []
    if config.last_save_model_only:
        problems.append(
            "last_save_model_only leaves the optimizer out of the last bundle, which then cannot be"
            " resumed: set it to False"
        )
    if config.async_mode != "disabled":
        problems.append(
            f"async_mode '{config.async_mode}' is not needed: every save goes on in the background:"
            " leave it out"
        )
    if config.keep_latest_k:
        problems.append(
            "keep_latest_k counts unfinished checkpoints too: leave it out, HOLDFAST_KEEP says how"
            " many bundles stay"
        )
    if config.load_step != -1:
        problems.append(
            f"load_step {config.load_step} would load what was not verified: leave it out; an older"
            " step comes back with `holdfast restore`"
        )
    return problems

"""Checkpoint folders `step_NNNNNN`, each with a complete artifact and the state for resuming.

A checkpoint is written under a temporary name and then renamed, so a folder is never incomplete.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from settings.record import ConfigError
from trainer.checkpoints.state_file import read_state, write_state
from trainer.checkpoints.training_state import FORMAT, SHARDS_AT, capture

if TYPE_CHECKING:
    from trainer.training import Training

WEIGHTS, SHARDS = "weights.safetensors", "shards"
NAME = re.compile(r"step_(\d{6,})")
PARTIAL = ".partial-"
EXTRA = "only-for-resume"
"""A file that marks an additional checkpoint, which was written because the run ended at that step."""


class Checkpoints:
    """The checkpoints of one run. The last `keep` (None: all) and the protected ones are kept."""

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self.folder, self._keep = folder, keep
        self.protected: set[int] = set()

    def path(self, step: int) -> Path:
        """Return the folder of `step`."""
        return self.folder / f"step_{step:06d}"

    def steps(self) -> list[int]:
        """Return the steps of the existing checkpoints, in ascending order."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def due_steps(self) -> list[int]:
        """The checkpoints that an uninterrupted run also has."""
        return [step for step in self.steps() if not self._is_extra(step)]

    def write(self, training: Training, *, extra: bool = False) -> Path:
        """Write the checkpoint of this step, and remove those that are not to be kept. `extra`: it is additional, and
        removed when the next one is written."""
        target = self.path(training.trainer.step)
        partial = self.folder / f"{PARTIAL}{target.name}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            training.write(partial / WEIGHTS)
            write_state(partial, capture(training))
            training.write_shards(partial / SHARDS)
            if extra:
                (partial / EXTRA).touch()
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        except BaseException:  # such as a full disk, or weights that are not finite
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.remove_extra(other_than=training.trainer.step)
        self._prune()
        return target

    def remove_extra(self, other_than: int | None = None) -> None:
        """Remove the checkpoints that were written only for resuming."""
        for step in self.steps():
            if step != other_than and self._is_extra(step):
                shutil.rmtree(self.path(step))

    def _is_extra(self, step: int) -> bool:
        return (self.path(step) / EXTRA).exists()

    def _prune(self) -> None:
        if self._keep is None:
            return
        for step in self.due_steps()[: -self._keep]:
            if step not in self.protected:
                shutil.rmtree(self.path(step))


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the state from a checkpoint's folder. Raises ConfigError when it is missing or incomplete."""
    try:
        state = read_state(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"resume: {folder} is not a complete checkpoint ({error}). Choose another one") from error
    if state.get("format") != FORMAT:
        raise ConfigError(
            f"resume: {folder} has format {state.get('format')}, this version reads {FORMAT}. Continue with the "
            "version that wrote it, or train into another --output"
        )
    return {**state, SHARDS_AT: str(folder / SHARDS)}

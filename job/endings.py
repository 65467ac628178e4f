"""Failed or stopped trainings: a line with the reason, a line with what was saved, and an exit status by kind."""

import errno
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetching.disk import is_disk_full
from job.publishing.errors import PublishingFailed
from preprocess.errors import DatasetError
from settings.command_line.parser import WRONG_INPUT
from settings.record import ConfigError

if TYPE_CHECKING:
    from job.output_folder import OutputFolder

SUCCESS, CRASHED, DIVERGED, NOT_VERIFIED, DISK_FULL, OUT_OF_MEMORY, STOPPED = 0, 1, 3, 4, 5, 6, 130
"""Exit statuses, besides WRONG_INPUT."""
DOING = {
    "load": "loading the base model",
    "prepare": "preparing the images",
    "cache": "caching the latents",
    "preview": "sampling the base model",
    "build": "building the training",
    "train": "training",
    "sample": "sampling",
    "verify": "verifying",
    "evaluate": "evaluating",
    "report": "writing the report",
}
"""The activity of each stage of a job, for messages with "while"."""
OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT)


class Stopped(BaseException):
    """The user or the parent process stops the training."""


@dataclass(frozen=True)
class Ending:
    """`text`: the reason. `refused`: whether the output is useless unless steps were trained."""

    text: str
    status: int
    refused: bool = True


def ending_of(error: BaseException, stage: str | None) -> Ending | None:
    """Return the ending for an error; None for an unexpected one, which keeps its traceback. `stage`: the current
    stage."""
    from artifact.errors import ArtifactError
    from families.errors import BaseModelError
    from job.verification.verify import VerificationFailed
    from trainer.trainables.trainable import TrainingDiverged

    doing = f" while {DOING[stage]}" if stage in DOING else ""
    if isinstance(error, ConfigError | DatasetError | BaseModelError | ArtifactError):
        return Ending(f"error: {error}", WRONG_INPUT)
    if isinstance(error, Stopped):
        return Ending(f"stopped{doing}", STOPPED)
    if isinstance(error, TrainingDiverged):
        return Ending(f"error: {error}", DIVERGED, refused=False)
    if isinstance(error, VerificationFailed):
        return Ending(f"error: {error}", NOT_VERIFIED, refused=False)
    if isinstance(error, PublishingFailed):
        return Ending(f"error: {error}", CRASHED, refused=False)
    if is_disk_full(error):
        return Ending(f"error: the disk is full{doing} ({_one_line(error)})", DISK_FULL)
    if type(error).__name__ in ("OutOfMemory", "OutOfMemoryError"):  # ours, and torch's
        return Ending(f"error: out of memory{doing}: {_one_line(error).removeprefix('out of memory ')}", OUT_OF_MEMORY)
    if isinstance(error, OSError) and error.errno in OF_THE_DISK and error.filename is not None:
        return Ending(f"error: {error.filename}: {error.strerror}{doing}", CRASHED)
    return None


def what_is_kept(output: "OutputFolder") -> str | None:
    """A sentence about the saved files of a run and how to continue; None if there are none."""
    steps = _checkpoints(output)
    goes_on = f"continue with --resume latest --output {shlex.quote(str(output.path))}"
    if output.weights.exists():
        return f"the result so far is in {output.weights}" + (f"; {goes_on}" if steps else "")
    if steps:
        return f"the checkpoint of step {steps[-1]} is kept; {goes_on}"
    return None


def _checkpoints(output: "OutputFolder") -> list[int]:
    from trainer.checkpoints.folders import Checkpoints

    return Checkpoints(output.checkpoints).steps()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

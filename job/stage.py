"""The stages of a job, and the state that they share."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from artifact.artifact import Artifact
from evaluation.scores import Encoders
from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.phases import PhaseClock
from job.progress import Progress
from job.samples import SampleSettings
from job.verification.verify import Probe, Verification
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from trainer.data.latent_cache import CachedExample
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import WHOLE, Base
from trainer.training import Training


@dataclass
class Job:
    """One training. Fields without a value are filled by the stages, each by the one that is named beside it."""

    config: TrainingConfig
    """`load` fills in what only the base knows, `build` steps and batch."""
    sources: Sequence[str | Path]
    output: OutputFolder
    state: dict[str, Any] | None = None
    """Of the checkpoint to go on from."""

    phases: PhaseClock = field(default_factory=PhaseClock)
    current: str | None = None
    """Name of the stage that is under way."""
    done: list[str] = field(default_factory=list)
    """Names of the stages that are over."""
    span: tuple[float, float] = (0.0, 0.0)
    """Fractions of the job at which the current stage begins and ends."""
    base: Base = WHOLE
    warnings: list[str] = field(default_factory=list)
    """Every one that was shown, for the report."""

    accelerator: Accelerator = field(init=False)  # load
    dtype: torch.dtype = field(init=False)  # load
    family: ModelFamily = field(init=False)  # load
    encoders: Encoders | None = field(init=False)  # load
    dataset: PreparedDataset = field(init=False)  # prepare
    examples: list[CachedExample] = field(init=False)  # cache
    probe: Probe = field(init=False)  # preview
    base_prediction: Tensor = field(init=False)  # preview
    training: Training = field(init=False)  # build
    artifact: Artifact = field(init=False)  # sample
    trained_prediction: Tensor = field(init=False)  # sample
    verification: Verification = field(init=False)  # verify
    evaluation: dict[str, Any] | None = field(init=False)  # evaluate

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def processes(self) -> Processes:
        return Processes(self.accelerator)

    @property
    def side(self) -> int:
        """Of samples, in pixels."""
        return self.config.resolution or self.family.native_resolution

    @property
    def samples(self) -> SampleSettings:
        return SampleSettings.of(self.config.validation, self.config.preparation, self.side)

    def progress(self, message: str, share: float = 0.0, *, warning: bool = False) -> Progress:
        """A line of the current stage, of which `share` is done."""
        first, last = self.span
        return Progress(message, first + (last - first) * share, warning=warning)


@dataclass(frozen=True)
class Stage:
    """`first` and `last`: the fractions of the job between which it lies. `alone`: the main process runs the base by
    itself, while the others wait or train with it. `timed`: whether the report has it as a phase."""

    name: str
    run: Callable[[Job], Generator[Progress, None, None]]
    first: float
    last: float
    alone: bool = False
    timed: bool = True


def perform(job: Job, stage: Stage) -> Iterator[Progress]:
    """Run a stage, unless it is over already: a job that failed goes on with the stage that failed."""
    if stage.name in job.done:
        return
    job.span, job.current = (stage.first, stage.last), stage.name
    if stage.timed:
        job.phases.begin(stage.name)
    else:
        job.phases.end()
    with closing(stage.run(job)) as events:
        for progress in events:
            if progress.warning:
                job.warnings.append(progress.message)
            yield progress
    job.done.append(stage.name)

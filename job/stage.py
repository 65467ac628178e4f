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
from evaluation.looks import SampleLooks
from evaluation.scores import Encoders
from families.family import ModelFamily
from families.precision.stored_blocks import AS_LOADED, Storage
from job.output_folder import OutputFolder
from job.phases import PhaseClock
from job.progress import Progress
from job.restoring.outcome import Restoration
from job.samples import SampleSettings
from job.verification.verify import Probe, Verification
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from trainer.data.latent_cache import CachedExample
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import WHOLE, Base
from trainer.initial_weights import InitialWeights
from trainer.trainables.initial_controlnet import InitialControlNet
from trainer.training import Training
from trainer.training_adapter import TrainingAdapterFile


@dataclass
class Job:
    """One training. Fields without a value are set by the stage named in the comment."""

    config: TrainingConfig
    """`load` fills in the settings that depend on the base, `build` steps and batch size."""
    sources: Sequence[str | Path]
    output: OutputFolder
    state: dict[str, Any] | None = None
    """The state of the checkpoint to resume."""
    notes: Sequence[str] = ()
    """Messages about the origin of the settings."""

    phases: PhaseClock = field(default_factory=PhaseClock)
    current: str | None = None
    """Name of the current stage."""
    done: list[str] = field(default_factory=list)
    """Names of the finished stages."""
    span: tuple[float, float] = (0.0, 0.0)
    """Fractions of the job at which the current stage begins and ends."""
    base: Base = WHOLE
    warnings: list[str] = field(default_factory=list)
    """All warnings that were shown, for the report."""

    accelerator: Accelerator = field(init=False)  # load
    dtype: torch.dtype = field(init=False)  # load
    family: ModelFamily = field(init=False)  # load
    initial: InitialWeights | InitialControlNet | None = None
    """The initial weights; `load` reads them if the settings name a file."""
    training_adapter: TrainingAdapterFile | None = None
    """The training adapter; `load` reads it if the settings name a file."""
    encoders: Encoders | None = field(init=False)  # load
    looks: SampleLooks | None = None
    """Evaluates samples during the training; set by `preview` for a run with `stop_when_settled`."""
    storage: Storage = AS_LOADED
    """How the denoiser's weights are stored; set by `prepare` or `cache`."""
    plan: str | None = None
    """The predicted memory and time, for the report; None on a CPU. Set by `prepare` or `cache`."""
    dataset: PreparedDataset = field(init=False)  # prepare
    examples: list[CachedExample] = field(init=False)  # cache
    probe: Probe = field(init=False)  # preview
    base_prediction: Tensor = field(init=False)  # preview
    training: Training = field(init=False)  # build
    artifact: Artifact = field(init=False)  # sample
    trained_prediction: Tensor = field(init=False)  # sample
    controlnet_state: dict[str, Tensor] | None = None
    """Tensors of a trained ControlNet, by diffusers' names; None for other trainings. Set by `sample`."""
    restoration: Restoration | None = None
    """The reconstruction quality of a model that reconstructs images; None for others. Set by `sample`."""
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
        """Side of the samples in pixels."""
        return self.config.preparation.largest_resolution or self.family.native_resolution

    @property
    def samples(self) -> SampleSettings:
        return SampleSettings.of(self.config.validation, self.config.preparation, self.side)

    def progress(self, message: str, share: float = 0.0, *, warning: bool = False) -> Progress:
        """Return a progress line of the current stage. `share`: the finished share of the stage."""
        first, last = self.span
        return Progress(message, first + (last - first) * share, warning=warning)


@dataclass(frozen=True)
class Stage:
    """A stage. `first` and `last`: the fractions of the job at which it begins and ends. `alone`: whether only the main
    process runs the base, except in training steps. `timed`: whether the report lists it as a phase."""

    name: str
    run: Callable[[Job], Generator[Progress, None, None]]
    first: float
    last: float
    alone: bool = False
    timed: bool = True


def perform(job: Job, stage: Stage) -> Iterator[Progress]:
    """Run a stage, unless it is done. A job that failed continues with the stage that failed."""
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

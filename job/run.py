"""Runs a training job: the list of its stages."""

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

from job.output_folder import OutputFolder
from job.progress import Progress
from job.stage import Job, Stage, perform
from job.stages.build import build
from job.stages.cache import cache
from job.stages.evaluate import evaluate
from job.stages.export import export
from job.stages.load import load
from job.stages.prepare import prepare
from job.stages.preview import preview
from job.stages.report import report
from job.stages.sample import sample
from job.stages.train import train
from job.stages.verify import verify
from settings.training import TrainingConfig

STAGES = (
    Stage("load", load, 0.0, 0.05),
    Stage("prepare", prepare, 0.05, 0.07),
    Stage("cache", cache, 0.07, 0.09),
    Stage("preview", preview, 0.09, 0.1, alone=True),
    Stage("build", build, 0.1, 0.1),
    Stage("train", train, 0.1, 0.9, alone=True),
    Stage("sample", sample, 0.92, 0.93, alone=True),
    Stage("verify", verify, 0.93, 0.94, alone=True),
    Stage("evaluate", evaluate, 0.94, 0.99, alone=True),
    Stage("export", export, 0.99, 1.0, alone=True, timed=False),
    Stage("report", report, 1.0, 1.0, timed=False),
)


def run(
    config: TrainingConfig,
    sources: Sequence[str | Path],
    output: OutputFolder,
    state: dict[str, Any] | None = None,
) -> Generator[Progress, None, None]:
    """Train on `sources` (archives, folders, URLs, or one prepared dataset) and fill `output`.

    `state`: of the checkpoint to resume, whose prepared images in `output` are used. Closing the iterator saves the
    current weights and a checkpoint. With several processes, the main process calls this function, and the other ranks
    `job.worker`. Raises DatasetError, BaseModelError and ConfigError before training; TrainingDiverged, ArtifactError,
    VerificationFailed and PublishingFailed after it, with the files kept.
    """
    yield from run_stages(Job(config, sources, output, state))


def run_stages(job: Job, stages: Sequence[Stage] = STAGES) -> Generator[Progress, None, None]:
    """Run the stages that are not done yet, in order."""
    for alone, together in groupby(stages, key=lambda stage: stage.alone):
        with job.base.main_only() if alone else nullcontext():
            for stage in together:
                yield from perform(job, stage)

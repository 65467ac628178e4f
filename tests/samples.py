"""Settings of samples, for trainings that tests build themselves."""

from job.samples import SampleSettings
from trainer.training import Training


def samples_of(training: Training) -> SampleSettings:
    config = training.config
    return SampleSettings.of(config.validation, config.preparation, training.family.native_resolution)

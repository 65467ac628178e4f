"""Requests to the Cog trainer, as train.py makes them."""

import inspect
from typing import Any

import train
from service.training_request import JOB_INPUTS, TrainingRequest

TRAIN_INPUTS = {
    name: parameter
    for name, parameter in inspect.signature(train.Trainer.train).parameters.items()
    if name not in ("self", *JOB_INPUTS)
}
"""The inputs of the trainer that are settings."""


def training_request(**values: Any) -> TrainingRequest:
    """A request with the defaults of the Cog inputs."""
    defaults = {name: parameter.default.default for name, parameter in TRAIN_INPUTS.items()}
    return TrainingRequest(**{"input_images": None, **defaults, **values})

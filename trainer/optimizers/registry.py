"""The list of optimizers. A new one is a function and a line here."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainer.config_sections.optimization import OptimizerName
from trainer.optimizers.adafactor import adafactor
from trainer.optimizers.adamw import adamw, adamw_8bit, adamw_schedule_free
from trainer.optimizers.prodigy import prodigy, prodigy_schedule_free
from trainer.optimizers.settings import OptimizerSettings

OptimizerBuilder = Callable[[Sequence[nn.Parameter], OptimizerSettings], torch.optim.Optimizer]

OPTIMIZERS: dict[OptimizerName, OptimizerBuilder] = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
    "adamw_schedule_free": adamw_schedule_free,
    "prodigy": prodigy,
    "prodigy_schedule_free": prodigy_schedule_free,
    "adafactor": adafactor,
}


def build_optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Raises ConfigError when the optimizer needs a package or a device that is not there."""
    return OPTIMIZERS[settings.name](parameters, settings)

"""The list of optimizers. A new optimizer is a function and a line here."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn

from settings.sections.optimization import OptimizerName
from trainer.optimizers.adafactor import adafactor
from trainer.optimizers.adamw import adamw, adamw_8bit, adamw_schedule_free
from trainer.optimizers.came import came
from trainer.optimizers.lion import lion
from trainer.optimizers.muon import muon
from trainer.optimizers.prodigy import prodigy, prodigy_schedule_free
from trainer.optimizers.settings import OptimizerSettings, ParameterGroup

OptimizerBuilder = Callable[[Sequence[ParameterGroup], OptimizerSettings], torch.optim.Optimizer]

OPTIMIZERS: dict[OptimizerName, OptimizerBuilder] = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
    "adamw_schedule_free": adamw_schedule_free,
    "prodigy": prodigy,
    "prodigy_schedule_free": prodigy_schedule_free,
    "adafactor": adafactor,
    "came": came,
    "lion": lion,
    "muon": muon,
}


def build_optimizer(
    parameters: Sequence[nn.Parameter],
    settings: OptimizerSettings,
    undecayed: Collection[nn.Parameter] = (),
    ups: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """`undecayed`: parameters without weight decay. `ups`: those with an `up_ratio` times higher learning rate. Raises
    ConfigError if the optimizer needs a package or a device that is not available.
    """
    spared = {id(parameter) for parameter in undecayed}
    fast_ones = {id(parameter) for parameter in ups} if settings.up_ratio != 1 else set()
    slow = [parameter for parameter in parameters if id(parameter) not in fast_ones]
    fast = [parameter for parameter in parameters if id(parameter) in fast_ones]
    higher = {"lr": settings.up_ratio * settings.learning_rate}
    groups: list[ParameterGroup] = [
        {"params": [each for each in slow if id(each) not in spared], "weight_decay": settings.weight_decay},
        {"params": [each for each in slow if id(each) in spared], "weight_decay": 0.0},
        {"params": [each for each in fast if id(each) not in spared], "weight_decay": settings.weight_decay, **higher},
        {"params": [each for each in fast if id(each) in spared], "weight_decay": 0.0, **higher},
    ]
    return OPTIMIZERS[settings.name]([group for group in groups if group["params"]], settings)

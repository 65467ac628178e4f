"""Something that is trained: parameters with their own optimizer, schedule and clipping."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from trainer.averages import build_averages
from trainer.config_sections.optimization import SCHEDULE_FREE
from trainer.optimizers.registry import build_optimizer
from trainer.optimizers.settings import OptimizerSettings
from trainer.schedules import ScheduleSettings, multiplier


class TrainingDiverged(RuntimeError):
    """A loss or gradient is no longer finite."""


class Trainable:
    """A named group of fp32 parameters. Steps are optimizer steps; the schedule ends where the run ends."""

    def __init__(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        *,
        optimizer: OptimizerSettings,
        schedule: ScheduleSettings,
        max_grad_norm: float,
        total_steps: int,
        ema_decay: float = 0.0,
    ) -> None:
        """Raises ValueError without parameters, or for one that is not fp32."""
        wrong = [parameter.dtype for parameter in parameters if parameter.dtype != torch.float32]
        if wrong or not parameters:
            raise ValueError(f"{name}: {len(parameters)} parameters, {len(wrong)} of them not fp32 ({set(wrong)})")
        self.name = name
        self.parameters = list(parameters)
        self.optimizer = build_optimizer(self.parameters, optimizer)
        self.schedule = LambdaLR(self.optimizer, multiplier(schedule, optimizer.learning_rate, total_steps))
        self.averages = build_averages(self.parameters, self.optimizer, optimizer.name in SCHEDULE_FREE, ema_decay)
        self._max_grad_norm = max_grad_norm

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def clip(self) -> torch.Tensor:
        """Clip the gradient. Returns its norm before: ()."""
        return nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm)

    def update(self) -> None:
        """Step, advance the schedule, clear the gradients, let the averages follow."""
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.averages.follow()

"""A trained group of parameters with its own optimizer, schedule and clipping."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from settings.sections.optimization import SCHEDULE_FREE
from trainer.optimizers.registry import build_optimizer
from trainer.optimizers.settings import OptimizerSettings
from trainer.trainables.averages import LAST_WEIGHTS, Averaging, build_averages
from trainer.trainables.schedules import ScheduleSettings, multiplier


class TrainingDiverged(RuntimeError):
    """Raised when a loss or gradient is no longer finite."""


class Trainable:
    """A named group of fp32 parameters. Steps are optimizer steps; the schedule ends with the run.

    `sharded`: whether each of several processes has a part of every parameter. `bytes_in_shards`: what `write_shards`
    writes on all of them.
    """

    sharded = False

    def __init__(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        *,
        optimizer: OptimizerSettings,
        schedule: ScheduleSettings,
        max_grad_norm: float,
        total_steps: int,
        averaging: Averaging = LAST_WEIGHTS,
        undecayed: Collection[nn.Parameter] = (),
        ups: Collection[nn.Parameter] = (),
    ) -> None:
        """`undecayed`: parameters, these or others, without weight decay. `ups`: up projections, which may have their
        own rate.

        Raises ValueError without parameters, or for one that is not fp32.
        """
        wrong = [parameter.dtype for parameter in parameters if parameter.dtype != torch.float32]
        if wrong or not parameters:
            raise ValueError(f"{name}: {len(parameters)} parameters, of which {len(wrong)} are not fp32 ({set(wrong)})")
        self.name = name
        self.parameters = list(parameters)
        self.optimizer = build_optimizer(self.parameters, optimizer, undecayed, ups)
        self._up_ratio = optimizer.up_ratio
        self._settings, self._peak = schedule, optimizer.learning_rate
        self._planned, self._planned_total = schedule, total_steps
        self._total = total_steps
        self._multiplier = multiplier(schedule, optimizer.learning_rate, total_steps)
        self.rate_factor = 1.0
        self.schedule = LambdaLR(self.optimizer, lambda step: self.rate_factor * self._multiplier(step))
        self.averages = build_averages(self.parameters, self.optimizer, optimizer.name in SCHEDULE_FREE, averaging)
        self._max_grad_norm = max_grad_norm

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    @property
    def learning_rates(self) -> dict[str, float]:
        """Rates by name; up projections with their own rate have their own name."""
        own = self.learning_rate
        return {self.name: own} | ({f"{self.name}_up": self._up_ratio * own} if self._up_ratio != 1 else {})

    @property
    def effective_learning_rate(self) -> float:
        """The learning rate, multiplied by Prodigy's estimate."""
        return self.learning_rate * float(self.optimizer.param_groups[0].get("d", 1.0))

    @property
    def finished(self) -> bool:
        """Whether its part of the run is over, so that no remaining step changes its parameters."""
        return self.schedule.last_epoch >= round(self._settings.last * self._total)

    def scale_rate(self, factor: float) -> None:
        """Multiply the learning rates of all following steps by `factor`."""
        self.rate_factor *= factor
        self._go_to(self.schedule.last_epoch)

    def end_at(self, total_steps: int) -> None:
        """Stretch or shrink the schedule to a new end of the run. A shorter run keeps the warm-up's share of it."""
        self._total = total_steps
        warmup = self._planned.warmup_steps
        if total_steps < self._planned_total:
            warmup = round(warmup * total_steps / self._planned_total)
        self._settings = replace(self._planned, warmup_steps=warmup)
        self._multiplier = multiplier(self._settings, self._peak, total_steps)
        self._go_to(self.schedule.last_epoch)

    def clip(self) -> torch.Tensor:
        """Clip the gradient. Returns its norm before clipping: ()."""
        return nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm)

    def update(self) -> None:
        """Step, advance the schedule, clear the gradients, update the averages. After its part of the run there is no
        step: even with a rate of 0, token retraction and schedule-free averages would change the parameters."""
        if self.finished:
            self.skip()
        else:
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.averages.follow()

    def skip(self) -> None:
        """Advance the schedule and clear the gradients, without a step."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
            self.schedule.step()  # torch would warn that there was no optimizer step before it
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimizer state, parameter group settings and averages."""
        optimizer = self.optimizer.state_dict()
        count = len(self.parameters)
        return {
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": [optimizer["state"].get(index, {}) for index in range(count)],
            "groups": [{key: value for key, value in group.items() if key != "params"}
                       for group in optimizer["param_groups"]],
            "averages": self.averages.state_dict(),
            "rate_factor": self.rate_factor,
        }  # fmt: skip

    @property
    def bytes_in_shards(self) -> int:
        return 0

    def write_shards(self, folder: Path) -> None:
        """Write the state that `state_dict` does not contain to `folder`; nothing here, where parameters are not
        sharded."""

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], step: int, folder: Path | None = None) -> None:
        """Load a state from after `step` steps, with the learning rate of the schedule at that step.

        `folder`: where `write_shards` has written.
        """
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            if parameter.shape != saved.shape:
                raise ValueError(
                    f"{self.name}: shape {tuple(saved.shape)} in the checkpoint, but {tuple(parameter.shape)} with "
                    "these settings"
                )
            parameter.copy_(saved)
        present = self.optimizer.state_dict()["param_groups"]
        groups = [
            {**{key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()},
             "params": group["params"]}
            for saved, group in zip(state["groups"], present, strict=True)
        ]  # fmt: skip
        remembered = {index: each for index, each in enumerate(state["optimizer"]) if each}
        self.optimizer.load_state_dict({"state": remembered, "param_groups": groups})
        self.averages.load_state_dict(state["averages"])
        self.rate_factor = state["rate_factor"]
        self._go_to(step)

    def _go_to(self, step: int) -> None:
        self.schedule.last_epoch = step
        rates = [base * (self.rate_factor * self._multiplier(step)) for base in self.schedule.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.schedule._last_lr = rates

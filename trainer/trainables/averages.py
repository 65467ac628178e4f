"""Weight averages (EMA), which are sampled, scored and saved in place of the last weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


@dataclass(frozen=True)
class Averaging:
    """Settings of the average: no averaging with `decay` 0. `start`: optimizer steps in which the average is a copy of
    the weights. `interval`: steps from one update of the average to the next."""

    decay: float = 0.0
    start: int = 0
    interval: int = 1


LAST_WEIGHTS = Averaging()


class Averages(Protocol):
    """Swaps averages into the parameters, and the trained values back."""

    def follow(self) -> None:
        """Update the averages after an optimizer step."""

    def put_in(self) -> None:
        """Replace the parameters by their averages."""

    def take_out(self) -> None:
        """Restore the trained parameters bit by bit."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoAverages:
    """No averaging: the last weights are used."""

    def follow(self) -> None: ...

    def put_in(self) -> None: ...

    def take_out(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class ExponentialAverages(NoAverages):
    """An exponential moving average by diffusers: β_k = min(decay, (1 + k) / (10 + k)) at update k after the start,
    which quickly forgets the weights from which it starts."""

    def __init__(self, parameters: Sequence[nn.Parameter], averaging: Averaging) -> None:
        self._parameters = list(parameters)
        self._interval, self._steps = averaging.interval, 0
        copies = averaging.start // averaging.interval
        self._model = EMAModel(self._parameters, averaging.decay, update_after_step=copies, foreach=True)

    def follow(self) -> None:
        self._steps += 1
        if self._steps % self._interval == 0:
            self._model.step(self._parameters)

    def put_in(self) -> None:
        self._model.store(self._parameters)
        self._model.copy_to(self._parameters)

    def take_out(self) -> None:
        self._model.restore(self._parameters)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimization_step": self._model.optimization_step,
            "steps": self._steps,
            "shadow_params": self._model.shadow_params,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.optimization_step, self._steps = state["optimization_step"], state["steps"]
        shadows: list[Tensor] = self._model.shadow_params
        for shadow, saved in zip(shadows, state["shadow_params"], strict=True):
            shadow.copy_(saved)


class ScheduleFreeAverages(NoAverages):
    """The averages of a schedule-free optimizer. Between steps its parameters are the points at which gradients are
    computed."""

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Any) -> None:
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._optimizer.train()
        self._trained: list[Tensor] = []

    def put_in(self) -> None:
        self._trained = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer.eval()

    @torch.no_grad()
    def take_out(self) -> None:
        self._optimizer.train()
        for parameter, trained in zip(self._parameters, self._trained, strict=True):
            parameter.copy_(trained)  # the optimizer's conversion rounds
        self._trained = []


def build_averages(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, schedule_free: bool, averaging: Averaging
) -> Averages:
    """Return the configured averages."""
    if schedule_free:
        return ScheduleFreeAverages(parameters, optimizer)
    return ExponentialAverages(parameters, averaging) if averaging.decay > 0 else NoAverages()

"""Weight averages (EMA), which are sampled, scored and saved in place of the last weights."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


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
    """An exponential moving average by diffusers: β_k = min(decay, (1 + k) / (10 + k)) at step k, which quickly forgets
    the initial weights."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._model = EMAModel(self._parameters, decay=decay, foreach=True)

    def follow(self) -> None:
        self._model.step(self._parameters)

    def put_in(self) -> None:
        self._model.store(self._parameters)
        self._model.copy_to(self._parameters)

    def take_out(self) -> None:
        self._model.restore(self._parameters)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimization_step": self._model.optimization_step,
            "shadow_params": self._model.shadow_params,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.optimization_step = state["optimization_step"]
        shadows: list[Tensor] = self._model.shadow_params
        for shadow, saved in zip(shadows, state["shadow_params"], strict=True):
            shadow.copy_(saved)


class ScheduleFreeAverages(NoAverages):
    """The averages of a schedule-free optimizer. Between steps its parameters are the points where gradients are
    taken."""

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
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, schedule_free: bool, ema_decay: float
) -> Averages:
    """Return the averages that the configuration asks for. `ema_decay` 0: none."""
    if schedule_free:
        return ScheduleFreeAverages(parameters, optimizer)
    return ExponentialAverages(parameters, ema_decay) if ema_decay > 0 else NoAverages()

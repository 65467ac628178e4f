"""Something that is trained: parameters with their own optimizer, schedule and clipping."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import get_scheduler


class TrainingDiverged(RuntimeError):
    """A loss or gradient is no longer finite."""


class Trainable:
    """A named group of fp32 parameters. Steps are optimizer steps; the schedule ends where the run ends."""

    def __init__(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float,
        scheduler: str,
        warmup_steps: int,
        total_steps: int,
    ) -> None:
        wrong = [parameter.dtype for parameter in parameters if parameter.dtype != torch.float32]
        if wrong or not parameters:
            raise ValueError(f"{name}: {len(parameters)} parameters, {len(wrong)} of them not fp32 ({set(wrong)})")
        self.name = name
        self.parameters = list(parameters)
        fused = parameters[0].is_cuda
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=fused
        )
        self.schedule = get_scheduler(
            scheduler, self.optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps
        )

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def update(self, max_grad_norm: float) -> torch.Tensor:
        """Clip, step, advance the schedule, clear the gradients. Returns the norm before clipping: ().

        Raises TrainingDiverged, with the parameters untouched, when the gradient is not finite.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingDiverged(f"the gradient of the {self.name} is not finite. Lower its learning rate.")
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

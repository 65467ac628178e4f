"""Keeps what the base knew: without the trigger word, the trained model should predict what the base predicts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from families.family import ModelFamily
from families.placeholder_tokens import expand_triggers
from trainer.losses.term import StepContext


@dataclass(frozen=True)
class PriorMatching:
    """weight · mean((prediction with adapter - prediction without)²) on captions whose trigger is replaced.

    Every second caption of the micro-batch is empty instead, for guidance leans on that prediction too. The base itself
    is the teacher, so no class images are needed. Costs two more forward passes and one backward.
    """

    family: ModelFamily
    trigger_word: str
    replacement: str
    weight: float
    name: str = "prior_matching"

    def __call__(self, context: StepContext) -> Tensor:
        captions = [
            "" if index % 2 else expand_triggers(caption, {self.trigger_word: [self.replacement]})
            for index, caption in enumerate(context.captions)
        ]
        with torch.no_grad():
            prompts = self.family.encode_prompts(captions)
            with adapter_off(self.family.denoiser):
                wanted = self.family.denoise(context.noised, context.draw.timesteps, prompts, context.sizes)
        predicted = self.family.denoise(context.noised, context.draw.timesteps, prompts, context.sizes)
        return self.weight * (predicted - wanted).square().mean()


@contextmanager
def adapter_off(denoiser: nn.Module) -> Iterator[None]:
    """The bare base, for as long as it is needed."""
    layers = [module for module in denoiser.modules() if isinstance(module, LoraLayer)]
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter in trained:  # peft froze them while they were off
            parameter.requires_grad_(True)

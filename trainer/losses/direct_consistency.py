"""Direct consistency optimization: an image is trained until the model is better than the base model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers
from trainer.losses.denoising import difference, floored, weighted
from trainer.losses.masked_mean import masked_mean
from trainer.losses.term import StepContext
from trainer.losses.weighting import TimestepWeighting, of_epsilon
from trainer.trainables.part import Parts

LEAST_FACTOR = 1e-4
"""Limit of the ratio of ε's error to that of v or flow: near pure noise, ε is not informative."""


@dataclass(frozen=True)
class DirectConsistency:
    """mean over B of weight · w(t) · -(2/β) · (ln σ(-β·Δ) + ln 2) / c (Lee et al. 2024, arXiv 2402.12004, eq. 10).

    Δ: the masked squared error of ε minus that of the base, which gets the class word instead of the trigger, at the
    same timestep and noise. It is c times that of v or flow. The paper's loss is multiplied by 2/β and computed for
    each image: for a new adapter its gradient is that of the mean squared error, and it decreases to zero as the image
    is learned. 0 if the model is as good as the base, negative if it is better. Costs one pass without gradients.

    `placeholders`: the tokens of every trigger. `class_words`: by trigger.
    """

    family: ModelFamily = field(repr=False)
    parts: Parts = field(repr=False)
    placeholders: Mapping[str, Sequence[str]]
    class_words: Mapping[str, str]
    beta: float
    weighting: TimestepWeighting
    mask_floor: float
    name: str = "dco"

    def __call__(self, context: StepContext) -> Tensor:
        target = context.noise_process.target(context.latents, context.draw)
        with torch.no_grad():
            base = (self._base(context).float() - target.float()).square()
        masks = floored(context.masks, self.mask_floor)
        above = masked_mean(difference(context).square(), masks) - masked_mean(base, masks)
        factor = of_epsilon(context.noise_process, context.draw.timesteps).clamp(min=LEAST_FACTOR)
        likelihood = logsigmoid(-self.beta * factor * above) + math.log(2)
        return weighted(-2 / self.beta * likelihood / factor, context, self.weighting)

    def _base(self, context: StepContext) -> Tensor:
        prompts = [self._plain(prompt) for prompt in context.prompts]
        with self.parts.off(), context.autocast():
            features = self.family.encode_prompts(prompts)
            return self.family.denoise(
                context.noised, context.draw.timesteps, features, context.sizes, context.conditioning
            )

    def _plain(self, prompt: str) -> str:
        """The prompts with class words instead of triggers."""
        for trigger, tokens in self.placeholders.items():
            if tokens:
                prompt = prompt.replace("".join(tokens), self.class_words[trigger])
            else:
                prompt = expand_triggers(prompt, {trigger: [self.class_words[trigger]]})
        return prompt

"""Adds noise to prompt features, so that the concept does not depend on an exact wording."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from families.family import PromptFeatures
from trainer.distributed.batch_share import WHOLE, Share

SHARE_OF_PROMPTS = 0.5
"""Share of the prompts that get noise. The others stay exact, as they are when sampling."""


@dataclass(frozen=True)
class NoisyPrompts:
    """Prompt features c + strength · std(c) · N(0, 1) for half of the prompts, as CADS adds when sampling (Sadat et al.
    2024, eq. 4); std is over each prompt. An empty prompt of zeros stays zero."""

    encode: Callable[[Sequence[str]], PromptFeatures]
    strength: float
    generator: torch.Generator = field(repr=False)
    share: Share = WHOLE

    def __call__(self, prompts: Sequence[str]) -> PromptFeatures:
        features = self.encode(prompts)
        chosen = self.share.uniform((len(features), 1, 1), self.generator) < SHARE_OF_PROMPTS
        noise = self.share.normal(features.prompt_embeds.shape, self.generator) * chosen
        return features.with_noise(noise, self.strength)

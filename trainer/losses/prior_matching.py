"""Keeps what the base knew: without the trigger word, the trained model should predict what the base predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from families.family import ModelFamily
from families.placeholder_tokens import expand_triggers
from trainer.adapters.adapter import Adapter
from trainer.losses.term import StepContext


@dataclass(frozen=True)
class PriorMatching:
    """weight · mean((prediction with adapter - prediction without)²) on prompts without the trigger.

    In turn: a caption whose triggers are replaced, the empty prompt (guidance leans on that prediction too), and one of
    `prompts`, drawn anew each time. The base itself is the teacher, so no class images are needed. Costs two more
    forward passes and one backward.
    """

    family: ModelFamily
    adapter: Adapter
    replacements: Mapping[str, str]
    prompts: Sequence[str]
    generator: torch.Generator
    weight: float
    name: str = "prior_matching"

    def __call__(self, context: StepContext) -> Tensor:
        captions = [self._prompt(*row) for row in enumerate(context.captions)]
        with torch.no_grad():
            with self.adapter.off():
                features = self.family.encode_prompts(captions)
                wanted = self.family.denoise(context.noised, context.draw.timesteps, features, context.sizes)
            if self.adapter.text_encoder_parameters:
                features = self.family.encode_prompts(captions)
        predicted = self.family.denoise(context.noised, context.draw.timesteps, features, context.sizes)
        return self.weight * (predicted - wanted).square().mean()

    def _prompt(self, index: int, caption: str) -> str:
        turn = index % (3 if self.prompts else 2)
        if turn == 0:
            return expand_triggers(caption, {trigger: [word] for trigger, word in self.replacements.items()})
        if turn == 1:
            return ""
        return self.prompts[int(torch.randint(len(self.prompts), (), generator=self.generator))]

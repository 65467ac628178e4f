"""Prior matching: without the trigger word the trained model should predict what the base predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers
from trainer.distributed.batch_share import WHOLE, Share
from trainer.losses.term import StepContext
from trainer.trainables.part import Parts


@dataclass(frozen=True)
class PriorMatching:
    """weight · mean((prediction with adapter - prediction without)²) on prompts without the trigger.

    Rows take turns between three kinds of prompts: the caption with its triggers replaced, the empty prompt (used by
    classifier-free guidance), and a random one of `prompts`. Small batches start with a random kind. The target is the
    base's prediction, so no class images are needed. The term costs two more forward passes and one backward pass every
    `interval` steps, and is multiplied by `interval` ("lazy regularization", Karras et al. 2020, arXiv 1912.04958,
    appendix B). `captions_only`: only the first kind, known as differential output preservation.
    """

    family: ModelFamily
    parts: Parts
    replacements: Mapping[str, str]
    prompts: Sequence[str]
    generator: torch.Generator
    weight: float
    interval: int = 1
    captions_only: bool = False
    processes: Share = WHOLE
    name: str = "prior_matching"

    def __call__(self, context: StepContext) -> Tensor | None:
        if context.step % self.interval:
            return None
        noised, timesteps = context.noised, context.draw.timesteps
        sizes, conditioning = context.sizes, context.conditioning
        captions = self._prompts(context.captions)
        with torch.no_grad():
            with self.parts.off():
                features = self.family.encode_prompts(captions)
                wanted = self.family.denoise(noised, timesteps, features, sizes, conditioning)
            if "text_encoders" in self.parts:
                features = self.family.encode_prompts(captions)
        predicted = self.family.denoise(noised, timesteps, features, sizes, conditioning)
        return self.interval * self.weight * (predicted - wanted).square().mean()

    def _prompts(self, captions: Sequence[str]) -> list[str]:
        kinds = 1 if self.captions_only else 3 if self.prompts else 2
        count = self.processes.count * len(captions)  # over all processes
        first = self._draw(kinds) if count < kinds else 0
        rows = [(first + row) % kinds for row in range(count)]
        drawn = [self._draw(len(self.prompts)) if kind == 2 else 0 for kind in rows]
        own = zip(self.processes.of(rows), captions, self.processes.of(drawn), strict=True)
        return [self._prompt(*row) for row in own]

    def _prompt(self, kind: int, caption: str, drawn: int) -> str:
        if kind == 0:
            return expand_triggers(caption, {trigger: [word] for trigger, word in self.replacements.items()})
        return "" if kind == 1 else self.prompts[drawn]

    def _draw(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

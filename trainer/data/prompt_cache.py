"""Encodes each distinct prompt of a batch once, and caches it when its features no longer change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from families.family import PromptFeatures
from trainer.trainables.trainable import Trainable

MOST_PROMPTS = 500
"""Kept features: 77 tokens of SDXL are 0.3 MiB in bf16. Shuffled tags make ever new prompts; the oldest goes."""
CHANGES_PROMPTS = ("tokens", "text_encoders")
"""Names of the trainables that do."""

Encode = Callable[[Sequence[str]], PromptFeatures]


@dataclass
class PromptCache:
    """`encode`: the family's. While tokens or text encoders are trained, the gradient of a prompt that stands twice in
    a batch is the sum of both, as if it had been read twice."""

    encode: Encode
    trainables: Sequence[Trainable]
    _kept: dict[str, PromptFeatures] = field(default_factory=dict, init=False)

    def __call__(self, prompts: Sequence[str]) -> PromptFeatures:
        """One row for each prompt."""
        different = list(dict.fromkeys(prompts))
        if self.frozen:
            return PromptFeatures.joined([self._keep(prompt) for prompt in prompts])
        if len(different) == len(prompts):
            return self.encode(prompts)
        features = self.encode(different)
        return features.rows(torch.tensor([different.index(prompt) for prompt in prompts]))

    @property
    def frozen(self) -> bool:
        """Whether no step to come changes what a prompt means."""
        return all(each.finished for each in self.trainables if each.name in CHANGES_PROMPTS)

    @torch.no_grad()
    def _keep(self, prompt: str) -> PromptFeatures:
        if prompt not in self._kept:
            if len(self._kept) == MOST_PROMPTS:
                del self._kept[next(iter(self._kept))]
            self._kept[prompt] = self.encode([prompt])  # alone: its bits must not depend on the batch
        return self._kept[prompt]

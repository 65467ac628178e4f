"""Encodes each distinct prompt of a batch once, and caches its features once they no longer change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from families.family import PromptFeatures
from trainer.trainables.trainable import Trainable

MOST_PROMPTS = 500
"""Size of the cache. 77 tokens of SDXL take 0.3 MiB in bf16. Shuffled tags always give new prompts, so the oldest
features are dropped."""
MOST_BYTES = 2**28
"""Size of the cache in bytes: a prompt of FLUX.2 dev takes 16 MB."""
CHANGES_PROMPTS = ("tokens", "text_encoders")
"""Names of the trainables that change the features of a prompt."""

Encode = Callable[[Sequence[str]], PromptFeatures]


@dataclass
class PromptCache:
    """A cache around `encode`, the family's prompt encoder.

    While tokens or text encoders are trained, a prompt that occurs twice in a batch is encoded once, and its gradient
    is the sum of both uses.
    """

    encode: Encode
    trainables: Sequence[Trainable]
    _kept: dict[str, PromptFeatures] = field(default_factory=dict, init=False)

    def __call__(self, prompts: Sequence[str]) -> PromptFeatures:
        """Return the features, one row per prompt."""
        different = list(dict.fromkeys(prompts))
        if self.frozen:
            return PromptFeatures.joined([self._keep(prompt) for prompt in prompts])
        self._kept.clear()  # a run that is lengthened trains tokens again
        if len(different) == len(prompts):
            return self.encode(prompts)
        features = self.encode(different)
        return features.rows(torch.tensor([different.index(prompt) for prompt in prompts]))

    @property
    def frozen(self) -> bool:
        """Whether the remaining steps no longer change prompt features."""
        return all(each.finished for each in self.trainables if each.name in CHANGES_PROMPTS)

    @torch.no_grad()
    def _keep(self, prompt: str) -> PromptFeatures:
        if prompt not in self._kept:
            features = self.encode([prompt])  # encoded one by one: the result must not depend on the batch
            while self._kept and (len(self._kept) == MOST_PROMPTS or self._bytes() + _bytes(features) > MOST_BYTES):
                del self._kept[next(iter(self._kept))]
            self._kept[prompt] = features
        return self._kept[prompt]

    def _bytes(self) -> int:
        return sum(_bytes(features) for features in self._kept.values())


def _bytes(features: PromptFeatures) -> int:
    return sum(tensor.nbytes for tensor in features.tensors)

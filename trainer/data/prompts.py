"""Builds the prompt of each caption: tag shuffling, caption dropout, trigger-only dropout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from families.parts.placeholder_tokens import expand_triggers
from trainer.randomness import NamedGenerators

SEEDS = 2**62


@dataclass(frozen=True)
class PromptSampler:
    """Builds prompts. `triggers` maps trigger words to placeholder tokens. Both dropouts are probabilities per
    caption."""

    triggers: Mapping[str, Sequence[str]]
    generators: NamedGenerators
    caption_dropout: float = 0.0
    trigger_only_dropout: float = 0.0
    shuffle_tags: bool = False
    keep_first_tags: int = 1

    def prompts(self, captions: Sequence[str], concepts: Sequence[str | None]) -> list[str]:
        """One prompt for each caption. `concepts`: the trigger word of each image, None or "" without one."""
        share, count = self.generators.share, len(captions)
        draws = share.uniform((count,), self.generators["dropout"]).tolist()
        orders = share.integers(SEEDS, count, self.generators["tags"]).tolist() if self.shuffle_tags else [None] * count
        words = [self._word(*row) for row in zip(captions, concepts, draws, orders, strict=True)]
        return [expand_triggers(text, self.triggers) for text in words]

    def _word(self, caption: str, concept: str | None, draw: float, order: int | None) -> str:
        if draw < self.caption_dropout:
            return ""
        if draw < self.caption_dropout + self.trigger_only_dropout and concept:
            return concept
        return caption if order is None else self._shuffled(caption, order)

    def _shuffled(self, caption: str, seed: int) -> str:
        """Shuffle the tags by `seed`. Each caption uses one random number, regardless of its number of tags, so that
        all processes stay synchronised."""
        tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
        kept, loose = tags[: self.keep_first_tags], tags[self.keep_first_tags :]
        order = torch.randperm(len(loose), generator=torch.Generator().manual_seed(seed)).tolist()
        return ", ".join([*kept, *(loose[index] for index in order)])

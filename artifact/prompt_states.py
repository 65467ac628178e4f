"""States of prompts as the denoiser's cross-attention gets them, and the words of a base model's vocabulary.

For bases whose prompts all have one length, as CLIP's have: N prompts, L positions, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from families.family import ModelFamily

BATCH = 32
END_OF_WORD = "</w>"
SHORTEST_WORD = 3


@torch.no_grad()
def prompt_states(family: ModelFamily, prompts: Sequence[str]) -> Tensor:
    """Return the states of all positions, fp32 on the CPU: (N, L, D)."""
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    return torch.cat([family.encode_prompts(batch).prompt_embeds.float().cpu() for batch in batches])


def word_states(family: ModelFamily, prompts: Sequence[str]) -> list[Tensor]:
    """Return the states (n, D) of each prompt's own tokens, without those of start, end and padding."""
    counts = [len(family.tokenizers[0](prompt, truncation=True).input_ids) for prompt in prompts]
    return [states[1 : count - 1] for states, count in zip(prompt_states(family, prompts), counts, strict=True)]


def vocabulary_words(tokenizer: Any, count: int) -> list[str]:
    """Return at most `count` whole words of ASCII letters, evenly spaced in the alphabet."""
    entries = tokenizer.get_vocab()
    words = sorted(entry.removesuffix(END_OF_WORD) for entry in entries if entry.endswith(END_OF_WORD))
    words = [word for word in words if word.isalpha() and word.isascii() and len(word) >= SHORTEST_WORD]
    return words[:: max(1, len(words) // count)][:count]

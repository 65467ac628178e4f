"""The text encoders' states of a word, as the denoiser gets them: at the word's position, and after it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from artifact.prompt_states import prompt_states
from families.family import ModelFamily

TEMPLATES = (
    "a photo of {}", "a photo of a {}", "a photo of the {}", "{}", "a small {}", "the {} at night",
    "a {} on a red background", "a blue {} on a white background", "a drawing of a {}, blue", "two circles and a {}",
    "a photo of a green cat with a {} on its left", "a house in the style of {}",
)  # fmt: skip
"""A state depends on the preceding words, so several sentences are used. With one sentence, gates in others were 0.2 to
0.5 on the embedded base; with these they are 0.5 to 1.1."""


def concept_states(family: ModelFamily, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return mean states over TEMPLATES, (K, d) each, fp32 on the CPU: at each word's last token, and at all positions
    after it, with the end of the text and the padding."""
    prompts = [template.format(word) for word in words for template in TEMPLATES]
    states = prompt_states(family, prompts)
    beginnings = [template.partition("{}")[0] + word for word in words for template in TEMPLATES]
    places = [_last_token(family.tokenizers[0], beginning) for beginning in beginnings]
    own = torch.stack([rows[place] for rows, place in zip(states, places, strict=True)])
    after = torch.stack([rows[place + 1 :].mean(0) for rows, place in zip(states, places, strict=True)])
    return _mean_of_each(own, len(words)), _mean_of_each(after, len(words))


def _mean_of_each(rows: Tensor, count: int) -> Tensor:
    return rows.unflatten(0, (count, -1)).mean(1)


def _last_token(tokenizer: Any, beginning: str) -> int:
    """The position of the last token of a text: behind it is only the end. A template may contain the word, too."""
    return len(tokenizer(beginning, truncation=True).input_ids) - 2

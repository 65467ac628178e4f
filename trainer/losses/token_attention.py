"""Token attention loss: cross-attention to the trained tokens should lie inside the subject mask."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainer.execution.attention_capture import AttentionCapture
from trainer.losses.term import StepContext


@dataclass(frozen=True)
class TokenAttention:
    """weight · mean over B and layers of (1 - Σ m·A / Σ A)², as in layout guidance (Chen et al. 2024, eq. 2).

    A is the attention of each latent position to the placeholder tokens, m the subject's mask at the layer's size. The
    loss is 0 for images whose prompt has no placeholder token, and for images without a mask. The term must come before
    terms that run the denoiser again.
    """

    capture: AttentionCapture = field(repr=False)
    tokenizer: Any = field(repr=False)
    token_ids: Sequence[int]
    weight: float
    name: str = "token_attention"

    def __call__(self, context: StepContext) -> Tensor:
        if context.masks is None:
            return context.prediction.new_zeros(())
        positions = [self._positions(prompt) for prompt in context.prompts]
        named = torch.tensor([float(bool(places)) for places in positions]).to(context.weights, non_blocking=True)
        outside = torch.stack([_share_outside(seen, context.masks) for seen in self.capture.maps(positions)])
        return self.weight * (outside.square().mean(dim=0) * named * context.weights).mean()

    def _positions(self, prompt: str) -> list[int]:
        """Return the positions of the placeholder tokens in the tokenized prompt."""
        ids = self.tokenizer(prompt, truncation=True, max_length=self.tokenizer.model_max_length).input_ids
        return [position for position, token in enumerate(ids) if token in self.token_ids]


def _share_outside(attention: Tensor, masks: Tensor) -> Tensor:
    """Return the share of attention outside the mask: (B,), 0 to 1; 0 if the layer has no attention to the tokens.

    `attention`: (B, N). `masks`: (B, 1, h, w), which N positions cover at a resolution reduced by a power of two.
    """
    height, width = masks.shape[-2:]
    reduction = round(math.sqrt(height * width / attention.shape[1]))
    size = (math.ceil(height / reduction), math.ceil(width / reduction))
    places = functional.interpolate(masks.float(), size=size, mode="area").flatten(1)
    total, inside = attention.sum(dim=1), (attention * places).sum(dim=1)
    return (total - inside) / total.clamp(min=torch.finfo(attention.dtype).tiny)

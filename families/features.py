"""Prompt features, as text encoders return them, with the operations on batches of them.

Shapes: B prompts, L positions, D width of a position's features, P width of a pooled vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TextStream:
    """Features of one encoder. `values`: (B, L, D). `mask`: bool (B, L), False at padding; None: no padding."""

    values: Tensor
    mask: Tensor | None = None

    @property
    def length(self) -> int:
        """The number of positions L."""
        return int(self.values.shape[1])

    @property
    def whole_mask(self) -> Tensor:
        """The mask (B, L), all True without padding."""
        if self.mask is not None:
            return self.mask
        return self.values.new_ones(self.values.shape[:2], dtype=torch.bool)

    def padded(self, length: int) -> "TextStream":
        """Pad with zeros to `length` positions, which the mask excludes. Raises ValueError for a smaller length."""
        missing = length - self.length
        if missing < 0:
            raise ValueError(f"{self.length} positions are more than {length}")
        if missing == 0:
            return self
        values = functional.pad(self.values, (0, 0, 0, missing))
        return TextStream(values, functional.pad(self.whole_mask, (0, missing)))

    def each(self, change: Callable[[Tensor], Tensor]) -> "TextStream":
        """Apply `change` to the values and to the mask."""
        return TextStream(change(self.values), None if self.mask is None else change(self.mask))

    def unpadded(self) -> list[Tensor]:
        """Return the positions of each prompt without padding: (Lᵢ, D)."""
        if self.mask is None:
            return list(self.values)
        return [values[mask] for values, mask in zip(self.values, self.mask, strict=True)]

    @staticmethod
    def joined(several: Sequence["TextStream"]) -> "TextStream":
        """Concatenate streams along the batch. Shorter ones are padded to the longest, with a mask."""
        longest = max(each.length for each in several)
        alike = [each.padded(longest) for each in several]
        masked = any(each.mask is not None for each in alike)
        return TextStream(
            torch.cat([each.values for each in alike]),
            torch.cat([each.whole_mask for each in alike]) if masked else None,
        )


@dataclass(frozen=True)
class PromptFeatures:
    """Features of B prompts from the text encoders.

    `prompt_embeds`: (B, L, D). `pooled_prompt_embeds`: (B, P), None where the denoiser uses none. `prompt_mask`: (B,
    L), False at padding; None: no padding. `further`: streams of other encoders that are separate inputs of the
    denoiser, by the family's own names; each has its own length.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None = None
    prompt_mask: Tensor | None = None
    further: Mapping[str, TextStream] = field(default_factory=dict)

    @classmethod
    def of_lengths(cls, rows: Sequence[Tensor], pooled: Tensor | None = None) -> "PromptFeatures":
        """Build from prompts of different lengths, (Lᵢ, D) each. There is always a mask."""
        several = [TextStream(row[None], row.new_ones((1, len(row)), dtype=torch.bool)) for row in rows]
        stream = TextStream.joined(several)
        return cls(stream.values, pooled, stream.mask)

    def __len__(self) -> int:
        """The number of prompts B."""
        return len(self.prompt_embeds)

    @property
    def stream(self) -> TextStream:
        """The first stream."""
        return TextStream(self.prompt_embeds, self.prompt_mask)

    @property
    def length(self) -> int:
        """The length L of the first stream."""
        return self.stream.length

    @property
    def mask(self) -> Tensor:
        """The mask (B, L) of the first stream, all True without padding."""
        return self.stream.whole_mask

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All values without the masks, as used for gradients."""
        pooled = () if self.pooled_prompt_embeds is None else (self.pooled_prompt_embeds,)
        return (self.prompt_embeds, *pooled, *(each.values for each in self.further.values()))

    def unpadded(self) -> list[Tensor]:
        """Return the positions of the first stream without padding, for each prompt: (Lᵢ, D)."""
        return self.stream.unpadded()

    def rows(self, indices: Tensor) -> "PromptFeatures":
        """Select prompts by `indices` (N,), which may repeat."""
        found = indices.to(self.prompt_embeds.device, non_blocking=True)
        return self._each(lambda tensor: _rows(tensor, found))

    def repeated(self, count: int) -> "PromptFeatures":
        """Repeat each prompt `count` times in sequence."""
        return self.rows(torch.arange(len(self)).repeat_interleave(count))

    def to(self, device: torch.device) -> "PromptFeatures":
        """Move to another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def padded(self, length: int) -> "PromptFeatures":
        """Pad the first stream, as `TextStream.padded`."""
        stream = self.stream.padded(length)
        return replace(self, prompt_embeds=stream.values, prompt_mask=stream.mask)

    def with_noise(self, noise: Tensor, strength: float) -> "PromptFeatures":
        """Add noise to the first stream: c + strength · std(c) · noise (B, L, D), std over each prompt; not to
        padding."""
        embeds = self.prompt_embeds
        noise = noise.to(embeds, non_blocking=True)
        if self.prompt_mask is None:
            spread = embeds.detach().std(dim=(1, 2), keepdim=True)
        else:
            noise = noise * self.prompt_mask.unsqueeze(-1)
            spread = torch.stack([row.detach().std() for row in self.unpadded()]).view(-1, 1, 1)
        return replace(self, prompt_embeds=embeds + strength * spread * noise)

    @staticmethod
    def joined(several: Sequence["PromptFeatures"]) -> "PromptFeatures":
        """Concatenate along the batch: (B₁ + B₂ + …, L, D). Shorter features are padded to the longest, with a mask.

        Raises ValueError where the parts differ.
        """
        first = several[0]
        parts = {(each.pooled_prompt_embeds is not None, frozenset(each.further)) for each in several}
        if len(parts) > 1:
            raise ValueError("prompt features with different parts (pooled, further streams) cannot be in one batch")
        stream = TextStream.joined([each.stream for each in several])
        pooled = [each.pooled_prompt_embeds for each in several if each.pooled_prompt_embeds is not None]
        further = {name: TextStream.joined([each.further[name] for each in several]) for name in first.further}
        return PromptFeatures(stream.values, torch.cat(pooled) if pooled else None, stream.mask, further)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PromptFeatures":
        stream, pooled = self.stream.each(change), self.pooled_prompt_embeds
        further = {name: each.each(change) for name, each in self.further.items()}
        return PromptFeatures(stream.values, None if pooled is None else change(pooled), stream.mask, further)


def _rows(tensor: Tensor, indices: Tensor) -> Tensor:
    """Select rows so that gradients of repeated rows are summed in a fixed order. `index_put` on a CPU and `index_add`
    on CUDA sum in any order (torch.use_deterministic_algorithms)."""
    return tensor[indices] if tensor.is_cuda else tensor.index_select(0, indices)

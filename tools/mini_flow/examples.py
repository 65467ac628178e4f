"""The training's examples: cached latents with their captions as token ids, in groups of one length."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, Qwen2Tokenizer

from families.parts.chat_prompts import chat_text
from tools.mini_flow import captions

LENGTHS = (32, 64)
"""The transformer reads a multiple of 32 tokens. Captions of one batch have one of these lengths, padded."""


@dataclass(frozen=True)
class Examples:
    """N images with M captions, and at the end the empty caption.

    `means`, `deviations`: (N, 4, 16, 16), scaled, fp16. `ids`: (M + 1, 64) tokens, padded. `counts`: (M + 1,), the
    number of tokens of each caption. `pictures`: (M,), the index of its image. `groups`: indices of the captions that
    fit into each of LENGTHS, and into no smaller one.
    """

    means: Tensor
    deviations: Tensor
    ids: Tensor
    counts: Tensor
    pictures: Tensor
    groups: dict[int, Tensor]

    def batch(self, size: int, empty: float, generator: torch.Generator) -> "Batch":
        """Draw captions of one length. `empty`: the share of images that get the empty caption instead."""
        shares = torch.tensor([float(len(group)) for group in self.groups.values()])
        length = list(self.groups)[int(torch.multinomial(shares, 1, generator=generator))]
        group = self.groups[length]
        chosen = group[torch.randint(0, len(group), (size,), generator=generator)]
        means = self.means[self.pictures[chosen]].float()
        noise = torch.randn(means.shape, generator=generator)
        latents = means + self.deviations[self.pictures[chosen]].float() * noise
        unsaid = torch.rand(size, generator=generator) < empty
        ids = torch.where(unsaid.unsqueeze(1), self.ids[-1], self.ids[chosen])
        return Batch(latents, ids[:, :length], torch.where(unsaid, self.counts[-1], self.counts[chosen]))


@dataclass(frozen=True)
class Batch:
    """`latents`: (B, 4, 16, 16). `ids`: (B, L), padded at the end. `counts`: (B,), the number of tokens of each
    caption."""

    latents: Tensor
    ids: Tensor
    counts: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, L) int64: 1 for tokens, 0 for padding."""
        return (torch.arange(self.ids.shape[1]) < self.counts.unsqueeze(1)).long()


def load(work: Path, latents: Path) -> Examples:
    """Images that are not crops, from the cached `latents`, with all their captions under `work`."""
    cached = captions.load(work)
    kept = torch.tensor(cached.whole).nonzero().flatten()
    with safe_open(latents, framework="pt") as file:
        means, deviations = (file.get_tensor(name)[kept] for name in ("means", "deviations"))
    texts = [text for index in kept.tolist() for text in cached.rows[index]]
    ids, counts = token_ids(AutoTokenizer.from_pretrained(work / "tokenizer"), [*texts, ""])
    pictures = torch.arange(len(kept)).repeat_interleave(captions.VARIANTS)
    groups = {
        longest: ((counts[:-1] > shorter) & (counts[:-1] <= longest)).nonzero().flatten()
        for shorter, longest in zip((0, *LENGTHS), LENGTHS, strict=False)
    }
    return Examples(means, deviations, ids, counts, pictures, groups)


def token_ids(tokenizer: Qwen2Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Prompts in the chat template as token ids (N, 64), and their number for each (N,). All training captions fit."""
    before, after = chat_text(tokenizer, "\0", thinking=True).split("\0")
    ids = torch.full((len(texts), LENGTHS[-1]), tokenizer.pad_token_id)
    counts = torch.zeros(len(texts), dtype=torch.long)
    for index, text in enumerate(texts):
        row = tokenizer.backend_tokenizer.encode(f"{before}{text}{after}").ids[: LENGTHS[-1]]
        ids[index, : len(row)], counts[index] = torch.tensor(row), len(row)
    return ids, counts

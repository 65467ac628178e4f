"""Shares of a base's cross-attention on a word of a prompt, and on the positions after it."""

from collections.abc import Sequence

import torch

from families.family import ModelFamily, SizeConditioning
from families.noise.noise_process import Draw
from trainer.execution.attention_capture import AttentionCapture

FRACTIONS = (0.3, 0.5, 0.8)
"""Noise levels as fractions from clean to noise, with one pass for each."""


def attention_shares(family: ModelFamily, prompt: str, word: str) -> tuple[float, float]:
    """Return the shares of the cross-attention on the last token of `word` and on all positions after it, 0 to 1 each:
    means over layers, heads, positions and FRACTIONS. The latents are noise around the mean latent. Raises ValueError
    if `word` is not in the prompt.
    """
    capture = AttentionCapture(family.denoiser)
    side = family.native_resolution
    clean = torch.zeros(family.latent_shape(family.encode_image(torch.zeros(1, 3, side, side)).shape))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    features, size = family.encode_prompts([prompt]), SizeConditioning((side, side), (0, 0), (side, side))
    place = _last_token(family, prompt, word)
    length = features.prompt_embeds.shape[1]
    found: list[torch.Tensor] = []
    for fraction in FRACTIONS:
        timesteps = family.noise_process.timesteps_at(torch.tensor([fraction]), clean.shape)
        noised = family.noise_process.corrupt(clean, Draw(timesteps, noise))
        with torch.enable_grad():  # passes without gradients are not captured
            family.denoise(noised.requires_grad_(), timesteps, features, [size])
        found.append(torch.stack([_share(capture, [place]), _share(capture, range(place + 1, length))]))
    own, after = torch.stack(found).mean(0).tolist()
    return own, after


def _share(capture: AttentionCapture, positions: Sequence[int]) -> torch.Tensor:
    return torch.stack([layer.detach().mean() for layer in capture.maps([positions])]).mean()


def _last_token(family: ModelFamily, prompt: str, word: str) -> int:
    tokenizer = family.tokenizers[0]
    ids: list[int] = tokenizer(prompt, truncation=True).input_ids
    own: list[int] = tokenizer(word, add_special_tokens=False).input_ids
    ends = [end for end in range(len(own), len(ids) + 1) if ids[end - len(own) : end] == own]
    if not ends:
        raise ValueError(f"{word!r} is not in {prompt!r}")
    return ends[-1] - 1

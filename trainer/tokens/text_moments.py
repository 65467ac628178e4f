"""Second moments of a base model's text states over captions from its own vocabulary, cached on disk.

Perfusion weights directions by their inverse (Tewel et al. 2023, §4.1, there computed from 100,000 captions of LAION).
"""

import contextlib
import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from artifact.prompt_states import BATCH, prompt_states, vocabulary_words
from artifact.safetensors_file import write_safetensors
from families.family import ModelFamily

CACHE_VARIABLE = "TEXT_MOMENTS_CACHE"
PHRASES = (
    "a photo of a {} {}", "a {} {} on a {} background", "a photo of a {} and a {}", "a {} drawing of a {}",
    "the {} beside the {}", "{} {} {}", "a small {} with a {}, {}",
)  # fmt: skip
FEWEST, PER_DIMENSION = 500, 2
"""Number of captions: at least FEWEST, and PER_DIMENSION for each dimension of the states."""
RIDGE = 1e-4
"""Share of the mean variance that is added to the diagonal: with fewer states than dimensions the moments are
singular."""


def text_moments(family: ModelFamily) -> Tensor:
    """Return C = mean e eᵀ over all positions that the denoiser reads, padding included, with a ridge: (d, d), fp64.

    Uses two captions per dimension: 4,096 for SDXL, which takes minutes on a CPU. Cached in a file (TEXT_MOMENTS_CACHE,
    otherwise the user's cache) under a digest of the captions and of some of their states.
    """
    (first,) = prompt_states(family, ["a photo"])
    captions = _captions(family.tokenizers[0], max(FEWEST, PER_DIMENSION * first.shape[1]))
    file = _folder() / f"{_digest(family, captions)}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # it is computed again
        return load_file(file)["moments"]
    moments = _moments(family, captions)
    with contextlib.suppress(OSError):  # without the cache it only takes longer
        write_safetensors({"moments": moments}, file)
    return moments


def _moments(family: ModelFamily, captions: Sequence[str]) -> Tensor:
    total, count = torch.tensor(0.0, dtype=torch.float64), 0
    for start in range(0, len(captions), BATCH):
        rows = prompt_states(family, captions[start : start + BATCH]).flatten(0, 1).double()
        total, count = total + rows.T @ rows, count + len(rows)
    mean = total / count
    return mean + RIDGE * mean.trace() / len(mean) * torch.eye(len(mean), dtype=mean.dtype)


def _captions(tokenizer: Any, count: int) -> list[str]:
    """Every word once in a plain caption, up to half of `count`; the others are phrases of random words."""
    words, drawn = vocabulary_words(tokenizer, count // 2), random.Random(0)
    plain = [f"a photo of a {word}" for word in words]
    phrases = [PHRASES[index % len(PHRASES)] for index in range(count - len(plain))]
    return plain + [phrase.format(*drawn.choices(words, k=phrase.count("{}"))) for phrase in phrases]


def _digest(family: ModelFamily, captions: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(captions).encode())
    states = prompt_states(family, captions[:: max(1, len(captions) // 4)][:4])
    digest.update(states.bfloat16().contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]


def _folder() -> Path:
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-trainer" / "text-moments"
    return Path(os.environ.get(CACHE_VARIABLE) or usual)

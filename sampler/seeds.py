"""Generators for seeds of 64 bits."""

from typing import Any

import numpy as np
import torch

FIRST_WORD = 24
"""Offset in torch's CPU generator state of the Mersenne Twister's 624 words, 8 bytes each."""


def generator_for(seed: int) -> torch.Generator:
    """Return a CPU generator for a seed from 0 to 2^64 - 1. Seeds below 2^32 give torch's own generator.

    torch uses only the lower 32 bits of a seed. For larger seeds the twister is initialised from both halves by
    `init_by_array` of Matsumoto and Nishimura (2002), as numpy does for a list.
    """
    generator = torch.Generator().manual_seed(seed)
    if seed < 2**32:
        return generator
    words = twister_words([seed & 0xFFFFFFFF, seed >> 32])
    state = generator.get_state()
    state[FIRST_WORD : FIRST_WORD + words.nbytes] = torch.from_numpy(words.view(np.uint8))
    return generator.set_state(state)


def twister_words(seed: int | list[int]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """Return the initial 624 words of numpy's Mersenne Twister."""
    state: Any = np.random.RandomState(seed).get_state(legacy=True)
    return np.asarray(state[1], np.uint64)

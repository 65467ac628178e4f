"""Merging by TIES and DARE: most entries of the changes are dropped, to reduce interference in the sum.

Both work on whole matrices, so their result has no small rank: it is written as the nearest LoRA of a given one.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Combine = Callable[[Sequence[Tensor], float, torch.Generator], Tensor]
"""From the files' weighted changes of one layer, all of one shape, and the share of entries that each keeps."""


def ties(changes: Sequence[Tensor], density: float, generator: torch.Generator) -> Tensor:
    """TIES (Yadav et al. 2023, arXiv 2306.01708, algorithm 1): trim, elect the sign, merge.

    Each change keeps its largest entries. The sign with the larger sum wins in every place; the result is the mean of
    the entries of that sign. `generator` is not needed.
    """
    trimmed = torch.stack([_largest(change, density) for change in changes])
    elected = trimmed.sum(0).sign()
    agreeing = (trimmed.sign() == elected) & (elected != 0)
    return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def dare(changes: Sequence[Tensor], density: float, generator: torch.Generator) -> Tensor:
    """DARE (Yu et al. 2024, arXiv 2311.03099, §3.1): entries are dropped at random, the others divided by `density`.

    The expectation of the result is the plain sum.
    """
    kept = [torch.rand(change.shape, generator=generator) < density for change in changes]
    return torch.stack([change * keep / density for change, keep in zip(changes, kept, strict=True)]).sum(0)


COMBINERS: Mapping[str, Combine] = {"ties": ties, "dare": dare}
"""Functions by the name of the mode."""


def _largest(change: Tensor, density: float) -> Tensor:
    """The change with only its density · n entries of largest absolute value."""
    count = max(1, round(density * change.numel()))
    kept = change.flatten().abs().topk(count).indices
    trimmed = change.new_zeros(change.numel()).index_copy(0, kept, change.flatten()[kept])
    return trimmed.reshape(change.shape)

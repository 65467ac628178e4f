"""Keeps the norm of trained tokens near the vocabulary's mean norm: longer ones dominate the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainer.losses.term import StepContext
from trainer.tokens.retraction import usual_norms


@dataclass(frozen=True)
class TokenNorm:
    """weight · mean over all rows e of (‖e‖ / μ - 1)², μ the mean norm of the encoder's vocabulary.

    `rows`: trained (n, d), one tensor per text encoder.
    """

    rows: Sequence[nn.Parameter] = field(repr=False)
    usual_norms: Sequence[float]
    weight: float
    name: str = "token_norm"

    @classmethod
    def of(cls, rows: Sequence[nn.Parameter], vocabularies: Sequence[Tensor], weight: float) -> "TokenNorm":
        """Build the term from the vocabularies (V, d)."""
        return cls(rows, usual_norms(vocabularies), weight)

    def __call__(self, context: StepContext) -> Tensor:
        norms = [row.norm(dim=1) / usual for row, usual in zip(self.rows, self.usual_norms, strict=True)]
        return self.weight * (torch.cat(norms) - 1).square().mean()

"""Keeps trained tokens within the covariance of the vocabulary's embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainer.losses.term import StepContext

RIDGE = 1e-2
"""Ridge that is added to the covariance, as a share of its mean variance: a small vocabulary does not span the space.
"""


@dataclass(frozen=True)
class TokenCovariance:
    """weight · mean over all rows e of (q - 1)², q = (e - m)ᵀ Σ⁻¹ (e - m) / d, the squared Mahalanobis distance.

    m and Σ are the mean and covariance of the encoder's vocabulary; q is near 1 for ordinary words. `whitenings`: m
    (d,) and L⁻¹ (d, d) of each encoder, where LLᵀ = Σ + ridge.
    """

    rows: Sequence[nn.Parameter] = field(repr=False)
    whitenings: Sequence[tuple[Tensor, Tensor]] = field(repr=False)
    weight: float
    name: str = "token_covariance"

    @classmethod
    def of(cls, rows: Sequence[nn.Parameter], vocabularies: Sequence[Tensor], weight: float) -> "TokenCovariance":
        """Build the term from the vocabularies (V, d). Statistics are computed once, in float64."""
        return cls(rows, [_whitening(table) for table in vocabularies], weight)

    def __call__(self, context: StepContext) -> Tensor:
        distances = [
            ((row - mean) @ whitening.T).square().mean(dim=1)
            for row, (mean, whitening) in zip(self.rows, self.whitenings, strict=True)
        ]
        return self.weight * (torch.cat(distances) - 1).square().mean()


def _whitening(table: Tensor) -> tuple[Tensor, Tensor]:
    values = table.detach().double()
    covariance = values.T.cov()
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    factor = torch.linalg.cholesky(covariance)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    return values.mean(dim=0).float(), inverse.float()

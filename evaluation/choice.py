"""Which checkpoint at which scale is returned: the rule that docs/evaluation.md states.

All measures are made relative, so that one rule serves every encoder: 0 is the bare base (or nothing left), 1 the
training pictures' own likeness (or as good as the base). The quality of a candidate is the geometric mean of the three,
less a share for copies. A geometric mean, because none of them makes up for another that is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.scores import Scores

COPY_PENALTY = 0.5
"""Share of the quality that is lost when every sample is a copy of a training picture."""
SMALLEST = 0.01
"""Below this a measure of the base cannot be divided by."""
AS_GOOD = 0.01
"""Candidates within this of the best quality count as equal; the one with fewer steps is taken, nearest to scale 1."""


@dataclass(frozen=True)
class Relative:
    """Each 0 to 1. fidelity: of the likeness that training pictures have to each other, beyond the base's.

    following: of the base's text margin. kept: likeness of unrelated prompts to the base's pictures. error: standard
    error of the quality, as far as it comes from the likeness of single samples.
    """

    fidelity: float
    following: float
    kept: float
    quality: float
    error: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """One checkpoint at one scale. `step`: optimizer steps."""

    step: int
    scale: float
    scores: Scores
    relative: Relative


def relate(scores: Scores, base: Scores, training_pictures: float) -> Relative:
    """`training_pictures`: their mean cosine to each other."""
    fidelity = _share(scores.identity - base.identity, training_pictures - base.identity)
    following = _share(scores.text_margin, base.text_margin)
    kept = min(1.0, max(0.0, scores.prior_kept))
    quality = (fidelity * following * kept) ** (1 / 3) * (1 - COPY_PENALTY * scores.copied)
    whole = training_pictures - base.identity
    spread = scores.identity_error / whole if whole >= SMALLEST else 0.0
    error = quality * spread / (3 * fidelity) if fidelity > 0 else 0.0  # of the cube root, to first order
    return Relative(fidelity, following, kept, quality, error)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The best one. Raises ValueError when there is none."""
    if not candidates:
        raise ValueError("no candidate to choose from")
    best = max(candidate.relative.quality for candidate in candidates)
    equal = [candidate for candidate in candidates if candidate.relative.quality >= best - AS_GOOD]
    return min(equal, key=lambda one: (abs(one.scale - 1), one.step))


def _share(value: float, whole: float) -> float:
    """`value` of `whole`, 0 to 1; 1 where there is nothing to reach."""
    if whole < SMALLEST:
        return 1.0
    return min(1.0, max(0.0, value / whole))

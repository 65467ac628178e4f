"""The rule that chooses checkpoint and scale, as described in docs/evaluation.md.

All measures are relative, so that one rule is used for every encoder: 0 is the base (or nothing kept), 1 is the
likeness of the training images to each other (or as good as the base). The quality of a candidate is the geometric mean
of the three measures, reduced by the share of copies. With a geometric mean, no measure can compensate for another one
that is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.scores import Scores

COPY_PENALTY = 0.5
"""Share of the quality that is lost when every sample is a copy of a training image."""
SMALLEST = 0.01
"""Smallest measure of the base that is used as a divisor."""
AS_GOOD = 0.01
"""Candidates within this of the best quality count as equal. Of these, the one nearest to scale 1 and then with fewer
steps is chosen."""


@dataclass(frozen=True)
class Relative:
    """Measures from 0 to 1.

    `fidelity`: likeness to the training images above that of the base, relative to the training images' likeness to
    each other. `following`: text margin relative to the base's. `kept`: likeness of samples of unrelated prompts to the
    base's. `error`: standard error of the quality that comes from the spread of the samples' likeness. `copied`: share
    of samples that are copies of a training image.
    """

    fidelity: float
    following: float
    kept: float
    quality: float
    error: float = 0.0
    copied: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """A checkpoint at one scale. `step`: number of optimizer steps."""

    step: int
    scale: float
    scores: Scores
    relative: Relative


def relate(scores: Scores, base: Scores, training_pictures: float) -> Relative:
    """Compute relative measures. `training_pictures`: mean cosine of the training images to each other."""
    fidelity = share(scores.identity - base.identity, training_pictures - base.identity)
    following = share(scores.text_margin, base.text_margin)
    kept = min(1.0, max(0.0, scores.prior_kept))
    quality = (fidelity * following * kept) ** (1 / 3) * (1 - COPY_PENALTY * scores.copied)
    whole = training_pictures - base.identity
    spread = scores.identity_error / whole if whole >= SMALLEST else 0.0
    error = quality * spread / (3 * fidelity) if fidelity > 0 else 0.0  # propagated through the cube root
    return Relative(fidelity, following, kept, quality, error, scores.copied)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the best candidate. Raises ValueError without candidates."""
    if not candidates:
        raise ValueError("no candidate to choose from")
    best = max(candidate.relative.quality for candidate in candidates)
    equal = [candidate for candidate in candidates if candidate.relative.quality >= best - AS_GOOD]
    return min(equal, key=lambda one: (round(abs(one.scale - 1), 6), one.step))  # 0.9 and 1.1 are equally near


def share(value: float, whole: float) -> float:
    """Return `value` / `whole` clipped to 0 to 1; 1 where `whole` is nearly 0."""
    if whole < SMALLEST:
        return 1.0
    return min(1.0, max(0.0, value / whole))

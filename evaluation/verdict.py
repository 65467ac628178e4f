"""The verdict in words: whether the concept was learned or overfit, and the recommended checkpoint and scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evaluation.choice import Candidate

Learning = Literal["learned", "partly learned", "not learned"]
Length = Literal["right", "too short", "slightly overfit", "overfit"]

LEARNED, PARTLY = 0.5, 0.25
"""Thresholds of `Relative.fidelity`."""
RISING = 0.05
"""Smallest gain in fidelity of the last checkpoint over the previous one that counts as still improving."""
SLIGHT_LOSS, CLEAR_LOSS = 0.05, 0.15
"""Thresholds of the last checkpoint's loss of quality, relative to the best checkpoint."""
NOISE = 2.0
"""Number of standard errors from which a difference of quality counts."""
HARM_FOLLOWING, HARM_KEPT, HARM_COPIED = 0.5, 0.6, 0.5
"""Overfit without a checkpoint to compare: `following` or `kept` below these, or `copied` above its threshold."""


@dataclass(frozen=True)
class Verdict:
    """`headline`: a few short sentences. `reasons`: the measurements, one sentence each."""

    learning: Learning
    length: Length
    headline: str
    reasons: list[str]


def give_verdict(candidates: Sequence[Candidate], chosen: Candidate, reference_scale: float) -> Verdict:
    """Return the verdict. `candidates`: at least one at `reference_scale`, at which checkpoints are compared."""
    line = sorted((one for one in candidates if one.scale == reference_scale), key=lambda one: one.step)
    learning, length = _learning(chosen), _length(line, chosen)
    returned = f"step {chosen.step} is returned" if chosen.step != line[-1].step else "the last step is returned"
    headline = f"{_opening(learning, length, line)}; {returned}. Use scale {chosen.scale:g}."
    return Verdict(learning, length, headline, _reasons(line, chosen, learning, length))


def _learning(chosen: Candidate) -> Learning:
    fidelity = chosen.relative.fidelity
    return "learned" if fidelity >= LEARNED else "partly learned" if fidelity >= PARTLY else "not learned"


def _length(line: Sequence[Candidate], chosen: Candidate) -> Length:
    """Rate the number of steps by the checkpoints at the reference scale. An unlearned concept is never overfit."""
    if max(one.relative.fidelity for one in (*line, chosen)) < PARTLY:
        return "too short"
    last, best = line[-1], max(line, key=lambda one: one.relative.quality)
    loss = 1 - last.relative.quality / best.relative.quality if best.relative.quality > 0 else 0.0
    if last.step != best.step and loss >= SLIGHT_LOSS and _beyond_noise(best, last):
        return "overfit" if loss >= CLEAR_LOSS or _harmed(last) else "slightly overfit"
    if _harmed(last):
        return "overfit"
    fidelities = [one.relative.fidelity for one in line]
    rising = len(line) < 2 or fidelities[-1] - fidelities[-2] >= RISING or fidelities[-1] < PARTLY
    return "too short" if fidelities[-1] < LEARNED and rising else "right"


def _beyond_noise(best: Candidate, last: Candidate) -> bool:
    error: float = (best.relative.error**2 + last.relative.error**2) ** 0.5
    return best.relative.quality - last.relative.quality > NOISE * error


def _harmed(candidate: Candidate) -> bool:
    relative = candidate.relative
    lost = relative.following < HARM_FOLLOWING or relative.kept < HARM_KEPT
    return (lost and relative.fidelity >= PARTLY) or relative.kept < HARM_KEPT or candidate.scores.copied > HARM_COPIED


def _opening(learning: Learning, length: Length, line: Sequence[Candidate]) -> str:
    """Return the opening of the headline, as "Learned; slightly overfit after step 240"."""
    best = max(line, key=lambda one: one.relative.quality)
    words = {"learned": "Learned", "partly learned": "Partly learned", "not learned": "Not learned"}[learning]
    if length == "too short":
        return f"{words}; too short: {line[-1].step} steps were not enough"
    if length in ("slightly overfit", "overfit"):
        after = f" after step {best.step}" if best.step != line[-1].step else ""
        return f"{words}; {length}{after}"
    return words


def _reasons(line: Sequence[Candidate], chosen: Candidate, learning: Learning, length: Length) -> list[str]:
    last, relative = line[-1], chosen.relative
    reasons = [
        f"Samples reach {relative.fidelity:.0%} of the similarity of the training images to each other and follow "
        f"their prompts {relative.following:.0%} as well as those of the base model; images of unrelated prompts are "
        f"{relative.kept:.0%} similar to those of the base model."
    ]
    if last.step != chosen.step:
        reasons.append(
            f"At step {last.step} these are {last.relative.fidelity:.0%}, {last.relative.following:.0%} "
            f"and {last.relative.kept:.0%}."
        )
    if chosen.scores.copied:
        reasons.append(f"{chosen.scores.copied:.0%} of the samples are near-duplicates of a training image.")
    remedies = {
        "too short": "Raise max_train_steps, or the learning rate.",
        "overfit": "Lower max_train_steps or the learning rate, or raise prior_matching_weight.",
        "slightly overfit": "Use fewer steps, or better: more training images.",
        "right": "Check that all training images show the same concept." if learning == "not learned" else "",
    }
    if length == "too short" and last.relative.kept < HARM_KEPT:
        reasons.append("Unrelated prompts changed although the concept was not learned.")
        remedies["too short"] = "Lower the learning rate, and raise max_train_steps."
    return [*reasons, *filter(None, [remedies[length]])]

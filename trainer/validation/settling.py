"""Decides when a run with `stop_when_settled` ends: when samples have settled, or prompts are followed less."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from evaluation.choice import Relative
from settings.sections.duration import LOOKS

RISING = 0.03
"""Smallest gain in the likeness of samples, as a share of the training images' likeness to each other, that counts as
learning."""
PATIENCE = 2
"""Consecutive evaluations without such a gain after which the likeness has settled."""
LEAST = 0.25
"""Likeness below which a concept is not learned yet, so that it cannot have settled."""
LOST = 0.15
"""Loss of prompts relative to the best evaluation that ends a run."""
COPIES = 0.1
"""Increase of the share of samples that copy a training image, relative to the best evaluation, that ends a run."""

Reason = Literal["settled", "lost"]


@dataclass(frozen=True)
class Look:
    """Measures of the samples at one step: the lowest ones of several concepts, and those of each by its trigger
    word."""

    step: int
    measures: Relative
    by_concept: Mapping[str, Relative] = field(default_factory=dict)


@dataclass
class Settling:
    """The evaluations of a run, and the decision based on them.

    `interval`: optimizer steps between two evaluations. `reason`: why the run ends before its maximum; None while it
    continues.
    """

    interval: int
    looks: list[Look] = field(default_factory=list)
    reason: Reason | None = None

    @classmethod
    def of(cls, most_steps: int) -> "Settling":
        """For a run of at most `most_steps` optimizer steps."""
        return cls(max(1, most_steps // LOOKS))

    def due(self, step: int) -> bool:
        """Whether an evaluation is due after this step. None is due once the end is decided."""
        return self.reason is None and step % self.interval == 0

    def observe(
        self,
        step: int,
        measures: Relative,
        *,
        improving: bool = False,
        by_concept: Mapping[str, Relative] | None = None,
    ) -> bool:
        """Record an evaluation. Returns whether it ends the run. `improving`: whether the validation loss still
        decreases."""
        self.looks.append(Look(step, measures, dict(by_concept or {})))
        if self.reason is None:
            self.reason = _reason(self.looks, improving)
        return self.reason is not None

    @property
    def best(self) -> Look | None:
        """The evaluation with the highest quality."""
        return max(self.looks, key=lambda look: look.measures.quality, default=None)

    def state_dict(self) -> dict[str, Any]:
        return {"looks": [asdict(look) for look in self.looks], "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the evaluations and the decision. The interval follows the current configuration."""
        self.looks = [
            Look(
                each["step"],
                Relative(**each["measures"]),
                {trigger: Relative(**found) for trigger, found in each.get("by_concept", {}).items()},
            )
            for each in state["looks"]
        ]
        self.reason = state["reason"]


def _reason(looks: Sequence[Look], improving: bool) -> Reason | None:
    if _lost(looks):
        return "lost"
    return "settled" if not improving and _settled(looks) else None


def _lost(looks: Sequence[Look]) -> bool:
    """Whether prompts have lost much, or samples become copies, since the look of the highest quality."""
    best, last = max(looks, key=lambda look: look.measures.quality).measures, looks[-1].measures
    lost = best.kept - last.kept > LOST or best.following - last.following > LOST
    return last.quality < best.quality and (lost or copies_more(last, best))


def copies_more(measures: Relative, other: Relative) -> bool:
    """Whether clearly more of the samples are copies than in the other evaluation."""
    return measures.copied - other.copied > COPIES


def _settled(looks: Sequence[Look]) -> bool:
    """Whether the last looks have not added to the highest likeness before them."""
    if len(looks) <= PATIENCE:
        return False
    before = max(look.measures.fidelity for look in looks[:-PATIENCE])
    since = max(look.measures.fidelity for look in looks[-PATIENCE:])
    return before >= LEAST and since < before + RISING

"""Reports why a run without a fixed length ended."""

from dataclasses import asdict
from typing import Any

from evaluation.concepts import likeness_said
from trainer.validation.settling import Look, Settling

ENDINGS = {
    "settled": "Trained and verified; ended when the likeness of samples had settled.",
    "lost": "Trained and verified; ended when prompts began to be lost, or samples to be copies of training pictures.",
    None: "Trained and verified; ended by its limits, or early by validation, before samples had settled.",
}


def ending(settling: Settling | None, returned: int, concepts: int = 1) -> dict[str, Any] | None:
    """Return headline, reasons and looks as in JSON; None where samples were not scored. `returned`: the step whose
    weights the result has. `concepts`: how many the run has, of which the first ones were sampled."""
    if settling is None or not settling.looks:
        return None
    last = settling.looks[-1]
    chosen = next((look for look in settling.looks if look.step == returned), last)
    reasons = [_said(chosen)]
    if chosen.step != last.step:
        reasons.append(f"It is returned, since its samples are better than those of the last step. {_said(last)}")
    if len(chosen.by_concept) > 1:
        reached = {trigger: measures.fidelity for trigger, measures in chosen.by_concept.items()}
        reasons.append(f"Every figure is that of the concept behind. {likeness_said(reached, concepts)}")
    if settling.reason is None:
        reasons.append("A longer run may do better: resume it with more steps or minutes.")
    looks = [
        {
            "step": look.step,
            **asdict(look.measures),
            "by_concept": {trigger: asdict(found) for trigger, found in look.by_concept.items()},
        }
        for look in settling.looks
    ]
    return {"headline": ENDINGS[settling.reason], "reasons": reasons, "looks": looks}


def _said(look: Look) -> str:
    measures = look.measures
    return (
        f"At step {look.step} samples reach {measures.fidelity:.0%} of the likeness that the training pictures have to "
        f"each other, follow their prompts {measures.following:.0%} as well as the bare base, and unrelated prompts "
        f"keep {measures.kept:.0%} of what they gave."
    )

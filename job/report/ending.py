"""Reports why a run without a fixed length ended."""

from dataclasses import asdict
from typing import Any

from evaluation.concepts import likeness_said
from trainer.validation.settling import Look, Settling

ENDINGS = {
    "settled": "Trained and verified; ended because the likeness of samples had settled.",
    "lost": "Trained and verified; ended because prompts were followed less, or samples became copies of training "
    "images.",
    None: "Trained and verified; ended by its limits or by early stopping, before the likeness of samples had settled.",
}


def ending(settling: Settling | None, returned: int, concepts: int = 1) -> dict[str, Any] | None:
    """Return headline, reasons and looks as in JSON; None if samples were not scored. `returned`: the step of the
    returned weights. `concepts`: number of concepts of the run, of which the first ones were sampled."""
    if settling is None or not settling.looks:
        return None
    last = settling.looks[-1]
    chosen = next((look for look in settling.looks if look.step == returned), last)
    reasons = [_said(chosen)]
    if chosen.step != last.step:
        reasons.append(f"It is returned, because its samples are better than those of the last step. {_said(last)}")
    if len(chosen.by_concept) > 1:
        reached = {trigger: measures.fidelity for trigger, measures in chosen.by_concept.items()}
        reasons.append(f"Each figure is that of the worst concept. {likeness_said(reached, concepts)}")
    if settling.reason is None:
        reasons.append("A longer run may give a better result: resume it with more steps or minutes.")
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
        f"At step {look.step} samples reach {measures.fidelity:.0%} of the similarity of the training images to each "
        f"other and follow their prompts {measures.following:.0%} as well as those of the base model; images of "
        f"unrelated prompts are {measures.kept:.0%} similar to those of the base model."
    )

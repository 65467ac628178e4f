"""The likeness of every concept of a run in which checkpoint and scale are chosen by the first one."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from evaluation.choice import share
from evaluation.drawing import DrawingPlan, Samples
from evaluation.embedding_cache import CachedEncoder
from evaluation.similarity import distinct, mean_self_similarity, mean_similarity
from evaluation.subject_pictures import References
from evaluation.verdict import LEARNED, PARTLY
from settings.sections.duration import MOST_CONCEPTS_SCORED

Draw = Callable[[DrawingPlan, bool], Samples]
"""Generates the samples of a plan: with the trigger word and the chosen weights, or, if True, in plain words with the
base model."""


def sampled_concepts(class_words: Mapping[str, str | None]) -> list[dict[str, str | None]]:
    """Return the class word by trigger word of each sampled concept; empty without a trigger word. At most the first
    three concepts are sampled."""
    return [{trigger: word} for trigger, word in list(class_words.items())[:MOST_CONCEPTS_SCORED]] or [{}]


def likeness(plan: DrawingPlan, references: References, encoder: CachedEncoder, draw: Draw) -> float:
    """`Relative.fidelity` of one concept's samples: 0 is the base model, 1 the training images to each other."""
    pictures = encoder.embed(references.pictures)
    base, now = (
        mean_similarity(encoder.embed(draw(plan.of_the_concept, plain).concept_pictures), pictures)
        for plain in (True, False)
    )
    return share(now - base, mean_self_similarity(distinct(pictures)) - base)


def likeness_said(reached: Mapping[str, float], concepts: int) -> str:
    """One or two sentences. `reached`: the likeness by trigger word. `concepts`: number of concepts in the run."""
    each = ", ".join(f"{trigger} {share:.0%}" for trigger, share in reached.items())
    rest = f" (the first {len(reached)} of {concepts} concepts)" if len(reached) < concepts else ""
    return " ".join([f"Likeness to each concept's training images{rest}: {each}.", *_behind(reached)])


def _behind(reached: Mapping[str, float]) -> Iterator[str]:
    words = {"not learned": (-1.0, PARTLY), "only partly learned": (PARTLY, LEARNED)}
    for said, (least, below) in words.items():
        if names := [trigger for trigger, share in reached.items() if least <= share < below]:
            yield f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {said}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

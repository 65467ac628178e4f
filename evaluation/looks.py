"""Scores the current weights during a training, concept by concept."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.checkpoints import drawing_plan
from evaluation.choice import Relative, relate
from evaluation.concepts import sampled_concepts
from evaluation.drawing import DrawingPlan, draw_samples
from evaluation.prompt_sets import captions_of
from evaluation.scores import Encoders, Judge
from evaluation.subject_pictures import references
from families.family import ModelFamily
from preprocess.dataset import PreparedDataset
from sampler.sampler import Sampler
from settings.preparation import DataConfig
from settings.sections.validation import ValidationSection


@dataclass(frozen=True)
class ConceptLook:
    """The prompts of one concept, and the judge of their samples. `trigger`: its trigger word, "" without one."""

    trigger: str
    plan: DrawingPlan
    judge: Judge


class SampleLooks:
    """Samples every concept's prompts with the current weights, and scores them relative to the base model and the
    training images. The measures are those of the evaluation after training."""

    def __init__(self, family: ModelFamily, concepts: Sequence[ConceptLook], seconds: float) -> None:
        """`seconds`: duration of sampling and scoring the base model, as an estimate for later calls."""
        self.seconds = seconds
        self._sampler, self._concepts = Sampler(family), concepts

    def __call__(self, triggers: Mapping[str, Sequence[str]]) -> dict[str, Relative]:
        """Return the measures of each concept by its trigger word. `triggers`: placeholder tokens by trigger word."""
        found = {}
        for concept in self._concepts:
            scores = concept.judge.score(draw_samples(self._sampler, concept.plan, triggers=triggers))
            found[concept.trigger] = relate(scores, concept.judge.base, concept.judge.training_pictures)
        return found


def behind(measures: Sequence[Relative]) -> Relative:
    """Return the lowest value of every measure, the largest error and the largest share of copies."""
    lowest = {
        name: min(getattr(each, name) for each in measures) for name in ("fidelity", "following", "kept", "quality")
    }
    error, copied = max(each.error for each in measures), max(each.copied for each in measures)
    return Relative(**lowest, error=error, copied=copied)


def sample_looks(
    validation: ValidationSection,
    preparation: DataConfig,
    base_model: str,
    family: ModelFamily,
    dataset: PreparedDataset,
    encoders: Encoders,
) -> SampleLooks:
    """Sample the base model, which must have no adapters, and return an object that scores the weights of a training.
    With more than three concepts, the first three are sampled. Raises ValueError for a concept without images."""
    side = preparation.largest_resolution or family.native_resolution
    start, sampler, concepts = time.monotonic(), Sampler(family), []
    for concept in sampled_concepts(preparation.class_words):
        plan = drawing_plan(validation, preparation, base_model, side, captions_of(dataset), concept)
        base = draw_samples(sampler, plan, plain=True)
        trigger = next(iter(concept), None)
        pictures = references(dataset, trigger)
        concepts.append(ConceptLook(trigger or "", plan, Judge(encoders, plan, pictures, base)))
    return SampleLooks(family, concepts, time.monotonic() - start)

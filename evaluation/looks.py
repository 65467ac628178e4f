"""Scores the weights that are on the base in the middle of a training, concept by concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.checkpoints import drawing_plan
from evaluation.choice import Relative, relate
from evaluation.drawing import DrawingPlan, draw_samples
from evaluation.prompt_sets import captions_of
from evaluation.scores import Encoders, Judge
from evaluation.subject_pictures import references
from families.family import ModelFamily
from preprocess.dataset import PreparedDataset
from sampler.sampler import Sampler
from settings.preparation import DataConfig
from settings.sections.duration import MOST_CONCEPTS_SCORED
from settings.sections.validation import ValidationSection


@dataclass(frozen=True)
class ConceptLook:
    """The prompts of one concept, and the judge of their samples."""

    plan: DrawingPlan
    judge: Judge


class SampleLooks:
    """Samples every concept's prompts with the weights that are on the base, and scores them against the bare base and
    the training pictures. The measures are those of the evaluation after training."""

    def __init__(self, family: ModelFamily, concepts: Sequence[ConceptLook]) -> None:
        self._sampler, self._concepts = Sampler(family), concepts

    def __call__(self, triggers: Mapping[str, Sequence[str]]) -> Relative:
        """Return the lowest measures of all concepts. `triggers`: placeholder tokens by trigger word."""
        found = []
        for concept in self._concepts:
            scores = concept.judge.score(draw_samples(self._sampler, concept.plan, triggers=triggers))
            found.append(relate(scores, concept.judge.base, concept.judge.training_pictures))
        return behind(found)


def behind(measures: Sequence[Relative]) -> Relative:
    """Return the lowest value of every measure, the largest error and the largest share of copies."""
    lowest = {
        name: min(getattr(each, name) for each in measures) for name in ("fidelity", "following", "kept", "quality")
    }
    error, copied = max(each.error for each in measures), max(each.copied for each in measures)
    return Relative(**lowest, error=error, copied=copied)


def sampled_concepts(class_words: Mapping[str, str | None]) -> list[dict[str, str | None]]:
    """Return the class word by trigger word of each concept that is sampled, alone; nothing where there is no trigger
    word."""
    return [{trigger: word} for trigger, word in list(class_words.items())[:MOST_CONCEPTS_SCORED]] or [{}]


def sample_looks(
    validation: ValidationSection,
    preparation: DataConfig,
    base_model: str,
    family: ModelFamily,
    dataset: PreparedDataset,
    encoders: Encoders,
) -> SampleLooks:
    """Sample the bare base, which must have no adapters, and return what scores the weights of a training. Of many
    concepts the first three are sampled.

    Raises ValueError for a concept without pictures.
    """
    side = preparation.largest_resolution or family.native_resolution
    sampler, concepts = Sampler(family), []
    for concept in sampled_concepts(preparation.class_words):
        plan = drawing_plan(validation, preparation, base_model, side, captions_of(dataset), concept)
        base = draw_samples(sampler, plan, plain=True)
        pictures = references(dataset, next(iter(concept), None))
        concepts.append(ConceptLook(plan, Judge(encoders, plan, pictures, base)))
    return SampleLooks(family, concepts)

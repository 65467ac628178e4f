"""The list of loss terms. A new one is a file beside this one and a line here."""

from families.family import ModelFamily
from trainer.adapters.adapter import Adapter
from trainer.config import TrainingConfig
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.prior_matching import PriorMatching
from trainer.losses.term import LossTerm
from trainer.randomness import NamedGenerators

CLASS_WORDS = {"face": "person", "object": "object", "style": "picture"}
"""What stands for the trigger where no class word is given."""


def loss_terms(
    config: TrainingConfig, family: ModelFamily, adapter: Adapter, generators: NamedGenerators
) -> list[LossTerm]:
    """The terms that this configuration asks for."""
    terms: list[LossTerm] = [MeanSquaredError(config.loss_weighting, config.min_snr_gamma, config.resolved_mask_floor)]
    if config.prior_matching_weight > 0:
        words = {
            concept.trigger_word: concept.class_word or CLASS_WORDS[config.concept_mode]
            for concept in config.all_concepts
        }
        draws = generators["prior_prompts"]
        terms.append(PriorMatching(family, adapter, words, config.prior_prompts, draws, config.prior_matching_weight))
    return terms

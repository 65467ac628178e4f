"""The list of loss terms. A new one is a file beside this one and a line here."""

from families.family import ModelFamily
from settings.training import TrainingConfig
from trainer.adapters.adapter import Adapter
from trainer.losses.adapter_l1 import AdapterL1
from trainer.losses.attention_capture import AttentionCapture
from trainer.losses.huber import Huber
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.prior_matching import PriorMatching
from trainer.losses.term import LossTerm
from trainer.losses.token_attention import TokenAttention
from trainer.losses.token_covariance import TokenCovariance
from trainer.losses.token_norm import TokenNorm
from trainer.randomness import NamedGenerators
from trainer.tokens.concept_tokens import ConceptTokens

CLASS_WORDS = {"face": "person", "object": "object", "style": "picture"}
"""What stands for the trigger where no class word is given."""


def loss_terms(
    config: TrainingConfig, family: ModelFamily, adapter: Adapter, tokens: ConceptTokens, generators: NamedGenerators
) -> list[LossTerm]:
    """The terms that this configuration asks for."""
    terms: list[LossTerm] = [_denoising(config)]
    if config.token_attention_weight > 0:
        # before terms that run the denoiser again
        capture = AttentionCapture(family.denoiser)
        ids = tokens.placeholders.ids[0]
        terms.append(TokenAttention(capture, family.tokenizers[0], ids, config.token_attention_weight))
    if config.prior_matching_weight > 0:
        terms.append(_prior_matching(config, family, adapter, generators))
    if config.adapter_l1_weight > 0:
        terms.append(
            AdapterL1([*adapter.denoiser_parameters, *adapter.text_encoder_parameters], config.adapter_l1_weight)
        )
    vocabularies = tokens.placeholders.vocabularies
    if config.token_norm_weight > 0:
        terms.append(TokenNorm.of(tokens.parameters, vocabularies, config.token_norm_weight))
    if config.token_covariance_weight > 0:
        terms.append(TokenCovariance.of(tokens.parameters, vocabularies, config.token_covariance_weight))
    return terms


def _denoising(config: TrainingConfig) -> LossTerm:
    weighting = (config.loss_weighting, config.min_snr_gamma, config.resolved_mask_floor)
    if config.loss_type == "huber":
        return Huber(config.huber_delta, config.huber_schedule, *weighting)
    return MeanSquaredError(*weighting)


def _prior_matching(
    config: TrainingConfig, family: ModelFamily, adapter: Adapter, generators: NamedGenerators
) -> PriorMatching:
    words = {
        concept.trigger_word: concept.class_word or CLASS_WORDS[config.concept_mode] for concept in config.all_concepts
    }
    draws, weight, interval = generators["prior_prompts"], config.prior_matching_weight, config.prior_matching_interval
    return PriorMatching(family, adapter, words, config.prior_prompts, draws, weight, interval, generators.share)

"""A training as an object: what is on the base, who updates it, and how it is written down at any step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from artifact.artifact import Artifact
from artifact.kohya import kohya_name
from artifact.metadata import ArtifactDescription
from families.family import ModelFamily
from families.fingerprint import fingerprint
from families.placeholder_tokens import expand_triggers
from preprocess.caption_text import template
from preprocess.dataset import PreparedDataset
from preprocess.prepare import BaseRequirements
from preprocess.settings import ConfigError
from sampler.adapters import adapter_layers
from trainer.adapters import add_lora
from trainer.batches import Share, endless_batches
from trainer.cache import CachedExample
from trainer.config import TrainingConfig
from trainer.loop import Trainer
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.prior_matching import PriorMatching
from trainer.losses.term import LossTerm
from trainer.prompts import PromptSampler
from trainer.randomness import NamedGenerators
from trainer.tokens import ConceptTokens, add_tokens
from trainer.trainable import Trainable

CLASS_WORDS = {"face": "person", "object": "object", "style": "picture"}
"""What stands for the trigger where no class word is given."""
COMMON_TOKEN = "a "
"""One token in every tokenizer."""


@dataclass
class Training:
    """A training in progress, with what is needed to write it down at any step."""

    config: TrainingConfig
    family: ModelFamily
    dataset: PreparedDataset
    tokens: ConceptTokens
    trainer: Trainer
    base_fingerprint: str

    @property
    def triggers(self) -> dict[str, list[str]]:
        return self.tokens.triggers

    def artifact(self) -> Artifact:
        """What has been learned up to now."""
        layers_per_block = self.family.denoiser.config.layers_per_block
        names = {path: kohya_name(path, layers_per_block) for path, _ in self.family.denoiser.named_modules()}
        description = ArtifactDescription(
            family=self.family.name,
            base_model=self.config.base_model,
            base_fingerprint=self.base_fingerprint,
            prediction_type=self.family.noise_process.prediction_type,
            triggers=self.triggers,
            steps=self.trainer.step,
            config=self.config.model_dump(mode="json"),
            dataset_digest=self.dataset.digest(),
            sample_prompts=[validation_prompt(self.config)],
        )
        rows = dict(zip(self.family.encoder_names, self.tokens.rows(), strict=True))
        return Artifact(adapter_layers(self.family.denoiser, names), rows, description)

    def write(self, path: Path) -> None:
        """Write the artifact of this moment."""
        self.artifact().write(
            path,
            self.config.save_precision,
            architecture=self.family.architecture,
            base_model_version=self.family.base_model_version,
        )


def build_training(
    config: TrainingConfig,
    family: ModelFamily,
    dataset: PreparedDataset,
    examples: list[CachedExample],
    accelerator: Accelerator,
) -> Training:
    """Put adapter and tokens on the base, and everything together. `config` must be resolved."""
    assert config.alpha is not None
    generators = NamedGenerators(config.seed)
    base_fingerprint = fingerprint(family.denoiser)
    lora = add_lora(family.denoiser, config.lora_targets, config.rank, config.alpha, generators["init_lora"])
    class_words = {concept.trigger_word: concept.class_word for concept in config.all_concepts}
    tokens = add_tokens(family, class_words, config.num_tokens, generators["init_tokens"])
    trainables = [_trainable("lora", lora, config.learning_rate, config.weight_decay, config)]
    if config.token_learning_rate > 0:
        trainables.append(_trainable("tokens", tokens.parameters, config.token_learning_rate, 0.0, config))
    trainer = Trainer(
        family=family,
        batches=endless_batches(
            examples,
            config.train_batch_size,
            generators["data"],
            generators["augment"],
            Share(accelerator.process_index, accelerator.num_processes),
        ),
        prompts=PromptSampler(
            tokens.triggers,
            generators,
            config.caption_dropout,
            config.trigger_only_dropout,
            config.shuffle_tags,
            config.keep_first_tags,
        ),
        losses=loss_terms(config, family, generators),
        trainables=trainables,
        generators=generators,
        accelerator=accelerator,
        max_train_steps=config.max_train_steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_grad_norm=config.max_grad_norm,
    )
    return Training(config, family, dataset, tokens, trainer, base_fingerprint)


def loss_terms(config: TrainingConfig, family: ModelFamily, generators: NamedGenerators) -> list[LossTerm]:
    """The terms that this configuration asks for."""
    terms: list[LossTerm] = [MeanSquaredError(config.loss_weighting, config.min_snr_gamma, config.resolved_mask_floor)]
    if config.prior_matching_weight > 0:
        words = {
            concept.trigger_word: concept.class_word or CLASS_WORDS[config.concept_mode]
            for concept in config.all_concepts
        }
        draws = generators["prior_prompts"]
        terms.append(PriorMatching(family, words, config.prior_prompts, draws, config.prior_matching_weight))
    return terms


def _trainable(
    name: str, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float, config: TrainingConfig
) -> Trainable:
    return Trainable(
        name,
        parameters,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        scheduler=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        total_steps=config.max_train_steps,
    )


def resolve(config: TrainingConfig, family: ModelFamily) -> TrainingConfig:
    """Fill in what only the base knows. Raises ConfigError for a resolution that it cannot do."""
    resolution = config.resolution or family.native_resolution
    if config.bucket_step and config.bucket_step % family.size_multiple:
        raise ConfigError(
            f"bucket_step: {config.bucket_step} is no multiple of {family.size_multiple}, which "
            f"{config.base_model} needs"
        )
    if resolution % family.size_multiple:
        near = max(1, round(resolution / family.size_multiple)) * family.size_multiple
        raise ConfigError(
            f"resolution: {resolution} is no multiple of {family.size_multiple}, which "
            f"{config.base_model} needs; {near} is the nearest"
        )
    found = {
        "resolution": resolution,
        "alpha": config.alpha or float(config.rank),
        "lr_warmup_steps": config.warmup_steps,
        "validation_prompt": validation_prompt(config),
    }
    given = set(config.model_fields_set)  # stays what the user set: some settings come too late for a prepared dataset
    return TrainingConfig.model_construct(given, **(dict(config) | found))


def base_requirements(family: ModelFamily, config: TrainingConfig) -> BaseRequirements:
    """What the base demands of the images and captions."""
    return BaseRequirements(family.size_multiple, lambda caption: count_tokens(caption, family, config))


def count_tokens(caption: str, family: ModelFamily, config: TrainingConfig) -> int:
    """Tokens of a caption, start and end of text included, by the tokenizer that needs most. A trigger counts as the
    tokens that will stand for it."""
    words = {concept.trigger_word: [COMMON_TOKEN] * config.num_tokens for concept in config.all_concepts}
    text = expand_triggers(caption, words)
    return max(len(tokenizer(text).input_ids) for tokenizer in family.tokenizers)


def validation_prompt(config: TrainingConfig) -> str:
    """The prompt of samples and verification."""
    concept = config.all_concepts[0]
    return config.validation_prompt or template(config.concept_mode, concept.trigger_word, concept.class_word)

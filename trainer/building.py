"""Builds a training from its resolved configuration."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from families.family import ModelFamily, restoring
from families.loading.fingerprint import fingerprint
from preprocess.dataset import PreparedDataset
from settings.preparation import DataConfig
from settings.training import TrainingConfig
from trainer.adapters.eva import start_by_inputs
from trainer.adapters.first_values import EVA
from trainer.data.batches import BatchStream
from trainer.data.latent_cache import CachedExample
from trainer.data.prompt_cache import Encode, PromptCache
from trainer.data.prompts import PromptSampler
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import WHOLE, Base
from trainer.duration import with_duration
from trainer.execution.loss_scaling import LossScaling
from trainer.execution.passes import build_passes
from trainer.initial_weights import InitialWeights, start_from
from trainer.loop import Trainer
from trainer.losses.registry import class_words_of, loss_terms
from trainer.losses.term import LossTerm
from trainer.monitoring.diagnostics import Observer
from trainer.noise.composition import training_noise, training_prompts
from trainer.noise.conditions import exact_condition, training_condition
from trainer.noise.dream import Dream
from trainer.randomness import NamedGenerators
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.trainables.controlnet import Condition, ControlNetPart, controlnet_of
from trainer.trainables.initial_controlnet import InitialControlNet
from trainer.trainables.kind import Placement, UpdateSettings
from trainer.trainables.part import Parts
from trainer.trainables.registry import build_trainables, place_parts
from trainer.trainables.scaled_rates import scaled, scaling_note
from trainer.trainables.tokens import tokens_of
from trainer.trainables.trainable import Trainable
from trainer.training import Training
from trainer.training_adapter import TrainingAdapter, TrainingAdapterFile
from trainer.validation.held_out_loss import HeldOutLoss
from trainer.validation.restoration import HeldOutRestoration
from trainer.validation.scorer import Scorer
from trainer.validation.settling import Settling
from trainer.validation.split import Split, split


def build_training(
    config: TrainingConfig,
    family: ModelFamily,
    dataset: PreparedDataset,
    examples: list[CachedExample],
    accelerator: Accelerator,
    initial: InitialWeights | InitialControlNet | None = None,
    training_adapter: TrainingAdapterFile | None = None,
    base: Base = WHOLE,
) -> Training:
    """Add the trained parts to the base, and build the training. `config` must be resolved; the training's
    configuration has steps and batch size filled in. `initial`: the initial weights. `training_adapter`: the adapter
    that is applied in its steps. `base`: how the denoiser is shared with other processes."""
    processes = Processes(accelerator)
    generators = NamedGenerators(config.seed, processes.share)
    held_out = _held_out(config, examples, family, generators)
    trained = examples if held_out is None else held_out.trained
    config = with_duration(config, trained, processes.share.count)
    assert config.max_train_steps is not None and config.train_batch_size is not None
    base_fingerprint = fingerprint(family.denoiser)
    parts = place_parts(_placement(config, family, dataset, generators, base, processes))
    notes = _first_values(initial, config, family, parts, trained, generators, accelerator)
    batches = _batches(trained, config.train_batch_size, generators, processes)
    trainables = _trainables(config, parts, base, processes, notes)
    passes = build_passes(
        config.speed,
        family,
        trainables,
        generators,
        accelerator,
        lambda: trainer.max_train_steps - trainer.step,
        lambda: trainer.forget_step(),
        trains_base=config.trains_base or config.is_perfusion,  # recorded passes would use the states of another step
        passes_differ=config.needs_first_activations,
        controlnet=None if (controlnet := controlnet_of(parts)) is None else controlnet.module,
    )
    trainer = Trainer(
        family=family,
        noise_process=training_noise(config.noise, family, generators),
        encode_prompts=_encoding(config.conditioning_noise, family, trainables, generators),
        batches=batches,
        prompts=_prompts(config.preparation, tokens_of(parts), generators),
        losses=_losses(config, family, parts, generators, trained),
        trainables=trainables,
        generators=generators,
        accelerator=accelerator,
        accumulation=passes.source,
        max_train_steps=config.max_train_steps,
        dream=None if config.noise.dream is None else Dream(config.noise.dream),
        loss_scaling=LossScaling(trainables, accelerator) if _is_half(family) else None,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        condition=_condition(config, family, controlnet, generators),
    )
    observer = Observer(family, tokens_of(parts), trainer.trainables)
    training = Training(config, family, dataset, parts, trainer, batches, passes, base_fingerprint, observer, held_out)
    training.training_adapter = _placed(training_adapter, family)
    training.notes = notes
    training.scorer = _scorer(training, accelerator)
    _plan_the_end(training)
    return training


def _plan_the_end(training: Training) -> None:
    """Conditions that can end the training before its last step, and the steps that are kept."""
    config = training.config
    training.best.patience, training.best.keep = config.early_stopping_patience, config.keep_best or 1
    if config.stop_when_settled:
        training.settling = Settling.of(training.trainer.max_train_steps)


def _trainables(
    config: TrainingConfig, parts: Parts, base: Base, processes: Processes, notes: list[str]
) -> list[Trainable]:
    """The trainables, with the main process's values on all ranks. Adds the rates after scale_lr to `notes`."""
    assert config.max_train_steps is not None
    updates = _update_settings(config, config.max_train_steps, processes.share.count, notes)
    trainables = build_trainables(parts, updates, base, processes)
    processes.broadcast_parameters([parameter for trainable in trainables for parameter in trainable.parameters])
    return trainables


def _encoding(
    conditioning_noise: float, family: ModelFamily, trainables: Sequence[Trainable], generators: NamedGenerators
) -> Encode:
    return training_prompts(conditioning_noise, PromptCache(family.encode_prompts, trainables), generators)


def _condition(
    config: TrainingConfig, family: ModelFamily, controlnet: ControlNetPart | None, generators: NamedGenerators
) -> Condition | None:
    return training_condition(family, controlnet, generators, config.preparation, config.noise.image_embedding_share)


def _placed(file: TrainingAdapterFile | None, family: ModelFamily) -> TrainingAdapter | None:
    return None if file is None else TrainingAdapter(file, family.denoiser)


def _held_out(
    config: TrainingConfig, examples: list[CachedExample], family: ModelFamily, generators: NamedGenerators
) -> Split | None:
    if config.validation_steps is None:
        return None
    return split(examples, config.validation_share, family.size_multiple, generators["validation_split"])


def _first_values(
    initial: InitialWeights | InitialControlNet | None,
    config: TrainingConfig,
    family: ModelFamily,
    parts: Parts,
    trained: list[CachedExample],
    generators: NamedGenerators,
    accelerator: Accelerator,
) -> list[str]:
    """Initialise the parts with the initial weights, if there are any. Returns messages. If this fails, all parts are
    removed from the base.
    """
    notes: list[str] = []
    try:
        if isinstance(initial, InitialControlNet):
            part = controlnet_of(parts)
            assert part is not None
            notes += initial.start(part, config.control, family)
        elif initial is not None:
            notes += start_from(initial, parts, tokens_of(parts))
        if config.lora_init == EVA:
            triggers = tokens_of(parts).triggers
            notes += [start_by_inputs(family, parts, trained, triggers, generators["init_eva"], accelerator)]
    except BaseException:
        parts.remove()
        raise
    return notes


def _is_half(family: ModelFamily) -> bool:
    """Whether the base computes in fp16."""
    return bool(next(family.denoiser.parameters()).dtype == torch.float16)


def _scorer(training: Training, accelerator: Accelerator) -> Scorer | None:
    """Return the held-out loss, with the quality of restoration if the base restores images; None if no images are held
    out."""
    if training.held_out is None:
        return None
    config, family = training.config, training.family
    condition = exact_condition(family, training.controlnet)
    held_out, floor = training.held_out.held_out, config.resolved_mask_floor
    loss = HeldOutLoss(family, held_out, training.triggers, floor, accelerator, condition)
    if restoring(family) is None:
        return loss
    return HeldOutRestoration(loss, family, config.num_inference_steps, config.guidance_scale)


def _placement(
    config: TrainingConfig,
    family: ModelFamily,
    dataset: PreparedDataset,
    generators: NamedGenerators,
    base: Base,
    processes: Processes,
) -> Placement:
    given = family, config.base_model, dataset, config.all_concepts, config.adapters, config.tokens
    return Placement(*given, generators, config.control, base, processes.is_main)


def _batches(
    examples: list[CachedExample], batch_size: int, generators: NamedGenerators, processes: Processes
) -> BatchStream:
    order, views, captions = (generators[name] for name in ("data", "augment", "captions"))
    return BatchStream(examples, batch_size, order, views, processes.share, captions=captions)


def _update_settings(config: TrainingConfig, total_steps: int, processes: int, notes: list[str]) -> UpdateSettings:
    """Adds the rates after scale_lr to `notes`."""
    settings = UpdateSettings(
        config.optimization,
        config.collapse,
        total_steps,
        config.resolved_text_encoder_learning_rate,
        config.token_retraction,
    )
    if not config.scale_lr:
        return settings
    images = (config.train_batch_size or 1) * config.gradient_accumulation_steps * processes
    settings = scaled(settings, images)
    notes.append(scaling_note(settings, images))
    return settings


def _losses(
    config: TrainingConfig,
    family: ModelFamily,
    parts: Parts,
    generators: NamedGenerators,
    examples: Sequence[CachedExample],
) -> list[LossTerm]:
    floor, class_words = config.resolved_mask_floor, class_words_of(config.preparation)
    return loss_terms(config.objective, floor, class_words, family, parts, tokens_of(parts), generators, examples)


def _prompts(settings: DataConfig, tokens: ConceptTokens, generators: NamedGenerators) -> PromptSampler:
    return PromptSampler(
        tokens.triggers,
        generators,
        settings.caption_dropout,
        settings.trigger_only_dropout,
        settings.shuffle_tags,
        settings.keep_first_tags,
    )

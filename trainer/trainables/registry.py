"""What a configuration trains: each group of parameters with its own optimizer and schedule."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import nn

from settings.sections.optimization import SCHEDULE_FREE, OptimizerName
from settings.training import TrainingConfig
from trainer.adapters.adapter import Adapter
from trainer.optimizers.extras import require_available
from trainer.optimizers.settings import OptimizerSettings
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.tokens.retraction import retract, usual_norms
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.trainable import Trainable


def build_trainables(adapter: Adapter, tokens: ConceptTokens, config: TrainingConfig) -> list[Trainable]:
    """The adapter and that of the text encoders where there are any, and the tokens unless their learning rate is 0."""
    weights = OptimizerSettings(
        config.optimizer, config.resolved_learning_rate, config.weight_decay, config.prodigy_d_coef
    )
    words = OptimizerSettings(
        config.token_optimizer, config.resolved_token_learning_rate, config.token_weight_decay, config.prodigy_d_coef
    )
    trainables = []
    if adapter.denoiser_parameters:
        trainables.append(
            _trainable("lora", adapter.denoiser_parameters, weights, config.max_grad_norm, config, adapter.undecayed)
        )
    if adapter.text_encoder_parameters:
        text = replace(weights, learning_rate=config.resolved_text_encoder_learning_rate)
        trainables.append(
            _trainable(
                "text_encoders", adapter.text_encoder_parameters, text, config.max_grad_norm, config, adapter.undecayed
            )
        )
    if words.learning_rate > 0:
        clip = config.token_max_grad_norm or config.max_grad_norm
        trainables.append(_trainable("tokens", tokens.parameters, words, clip, config))
        if config.token_retraction > 0:
            usual = usual_norms(tokens.placeholders.vocabularies)
            retract(trainables[-1].optimizer, tokens.parameters, usual, config.token_retraction)
    return trainables


def require_optimizers(config: TrainingConfig) -> None:
    """Raises ConfigError, before anything is loaded, for an optimizer that cannot run here."""
    require_available(config.optimizer)
    if config.resolved_token_learning_rate > 0:
        require_available(config.token_optimizer)


def _trainable(
    name: str,
    parameters: Sequence[nn.Parameter],
    optimizer: OptimizerSettings,
    clip: float,
    config: TrainingConfig,
    undecayed: Collection[nn.Parameter] = (),
) -> Trainable:
    assert config.max_train_steps is not None  # planned
    schedule = _schedule(name, optimizer.name, config)
    return Trainable(
        name,
        parameters,
        optimizer=optimizer,
        schedule=schedule,
        max_grad_norm=clip,
        total_steps=config.max_train_steps,
        ema_decay=0.0 if optimizer.name in SCHEDULE_FREE else config.ema_decay,
        undecayed=undecayed,
    )


def _schedule(name: str, optimizer: OptimizerName, config: TrainingConfig) -> ScheduleSettings:
    """Phases are nothing but schedules: tokens first, both, the adapter alone."""
    return ScheduleSettings(
        config.scheduler_of(optimizer),
        config.warmup_steps,
        first=0.0 if name == "tokens" else config.tokens_first,
        last=config.tokens_until if name == "tokens" else 1.0,
        cycles=config.lr_num_cycles,
        power=config.lr_power,
    )

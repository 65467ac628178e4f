"""What a configuration trains: each group of parameters with its own optimizer and schedule."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from torch import nn

from settings.sections.collapse import CollapseSection
from settings.sections.optimization import SCHEDULE_FREE, OptimizationSection, OptimizerName
from trainer.adapters.adapter import Adapter
from trainer.optimizers.extras import require_available
from trainer.optimizers.settings import OptimizerSettings
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.tokens.retraction import retract, usual_norms
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.trainable import Trainable


@dataclass(frozen=True)
class TrainableSettings:
    """What all trainables have in common. `optimization`: with its warm-up filled in. `total_steps`: of the run."""

    optimization: OptimizationSection
    phases: CollapseSection
    total_steps: int
    text_encoder_learning_rate: float
    token_retraction: float

    @property
    def weights(self) -> OptimizerSettings:
        """Of the adapter or the base's weights."""
        settings = self.optimization
        return OptimizerSettings(
            settings.optimizer, settings.resolved_learning_rate, settings.weight_decay, settings.prodigy_d_coef
        )

    @property
    def text_encoders(self) -> OptimizerSettings:
        return replace(self.weights, learning_rate=self.text_encoder_learning_rate)

    @property
    def tokens(self) -> OptimizerSettings:
        settings = self.optimization
        return OptimizerSettings(
            settings.token_optimizer,
            settings.resolved_token_learning_rate,
            settings.token_weight_decay,
            settings.prodigy_d_coef,
        )


def build_trainables(adapter: Adapter, tokens: ConceptTokens, settings: TrainableSettings) -> list[Trainable]:
    """The adapter and that of the text encoders where there are any, and the tokens unless their learning rate is 0."""
    clip, undecayed = settings.optimization.max_grad_norm, adapter.undecayed
    trainables = []
    if adapter.denoiser_parameters:
        trainables.append(_trainable("lora", adapter.denoiser_parameters, settings.weights, clip, settings, undecayed))
    if adapter.text_encoder_parameters:
        parameters = adapter.text_encoder_parameters
        trainables.append(_trainable("text_encoders", parameters, settings.text_encoders, clip, settings, undecayed))
    if settings.tokens.learning_rate > 0:
        clip = settings.optimization.token_max_grad_norm or clip
        trainables.append(_trainable("tokens", tokens.parameters, settings.tokens, clip, settings))
        if settings.token_retraction > 0:
            usual = usual_norms(tokens.placeholders.vocabularies)
            retract(trainables[-1].optimizer, tokens.parameters, usual, settings.token_retraction)
    return trainables


def require_optimizers(settings: OptimizationSection) -> None:
    """Raises ConfigError, before anything is loaded, for an optimizer that cannot run here."""
    require_available(settings.optimizer)
    if settings.resolved_token_learning_rate > 0:
        require_available(settings.token_optimizer)


def _trainable(
    name: str,
    parameters: Sequence[nn.Parameter],
    optimizer: OptimizerSettings,
    clip: float,
    settings: TrainableSettings,
    undecayed: Collection[nn.Parameter] = (),
) -> Trainable:
    return Trainable(
        name,
        parameters,
        optimizer=optimizer,
        schedule=_schedule(name, optimizer.name, settings.optimization, settings.phases),
        max_grad_norm=clip,
        total_steps=settings.total_steps,
        ema_decay=0.0 if optimizer.name in SCHEDULE_FREE else settings.optimization.ema_decay,
        undecayed=undecayed,
    )


def _schedule(
    name: str, optimizer: OptimizerName, settings: OptimizationSection, phases: CollapseSection
) -> ScheduleSettings:
    """Phases are nothing but schedules: tokens first, both, the adapter alone."""
    assert settings.lr_warmup_steps is not None  # planned
    return ScheduleSettings(
        settings.scheduler_of(optimizer),
        settings.lr_warmup_steps,
        first=0.0 if name == "tokens" else phases.tokens_first,
        last=phases.tokens_until if name == "tokens" else 1.0,
        cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )

"""What a configuration trains: each group of parameters with its own optimizer and schedule."""

from collections.abc import Sequence

from torch import nn

from trainer.config import TrainingConfig
from trainer.tokens import ConceptTokens
from trainer.trainable import Trainable


def build_trainables(lora: Sequence[nn.Parameter], tokens: ConceptTokens, config: TrainingConfig) -> list[Trainable]:
    """The adapter, and the tokens unless their learning rate is 0."""
    trainables = [_trainable("lora", lora, config.learning_rate, config.weight_decay, config)]
    if config.token_learning_rate > 0:
        trainables.append(_trainable("tokens", tokens.parameters, config.token_learning_rate, 0.0, config))
    return trainables


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

"""The interface of a trainable kind: how its part is added to the base, and how it is updated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from families.family import ModelFamily
from preprocess.dataset import PreparedDataset
from settings.concepts import ConceptConfig
from settings.sections.adapter import AdapterSection
from settings.sections.collapse import CollapseSection
from settings.sections.optimization import OptimizationSection
from settings.sections.tokens import TokenSection
from trainer.distributed.sharded_base import WHOLE, Base
from trainer.optimizers.settings import OptimizerSettings
from trainer.randomness import NamedGenerators
from trainer.trainables.part import Part


@dataclass(frozen=True)
class Placement:
    """The inputs for building a part. `base_model`: as named in the settings. `control`: the condition of a ControlNet.
    `base`: how the denoiser is shared with other processes. `is_main`: whether this is the main process."""

    family: ModelFamily
    base_model: str
    dataset: PreparedDataset
    concepts: Sequence[ConceptConfig]
    adapters: AdapterSection
    tokens: TokenSection
    generators: NamedGenerators
    control: str = "none"
    base: Base = WHOLE
    is_main: bool = True


@dataclass(frozen=True)
class UpdateSettings:
    """Settings for the updates of all trainables.

    `optimization`: with its warm-up filled in. `total_steps`: of the run. `text_encoder_learning_rate`: resolved.
    """

    optimization: OptimizationSection
    phases: CollapseSection
    total_steps: int
    text_encoder_learning_rate: float
    token_retraction: float

    @property
    def weights(self) -> OptimizerSettings:
        """Optimizer settings of parts that change weights of the base."""
        settings = self.optimization
        return OptimizerSettings(
            settings.optimizer,
            settings.resolved_learning_rate,
            settings.weight_decay,
            settings.prodigy_d_coef,
            up_ratio=settings.lora_plus_ratio,
        )


@dataclass(frozen=True)
class Updates:
    """How a part is updated. `first` and `last`: shares of the run between which its learning rate is above 0.

    `ups`: parameters that learn faster (LoRA+). `prepare`: called with the optimizer, once it is made.
    """

    optimizer: OptimizerSettings
    max_grad_norm: float
    first: float = 0.0
    last: float = 1.0
    ups: Sequence[nn.Parameter] = ()
    prepare: Callable[[torch.optim.Optimizer], None] | None = None


@dataclass(frozen=True)
class TrainableKind:
    """One kind of trainable.

    `name`: in logs and checkpoints. `place`: adds the part to the base model; returns None if the settings do not
    request it. `updates`: returns None for a part that is not trained.
    """

    name: str
    place: Callable[[Placement], Part | None]
    updates: Callable[[Part, UpdateSettings], Updates | None]

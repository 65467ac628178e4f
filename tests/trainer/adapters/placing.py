"""Places adapters on a base model, without the rest of a training."""

from pathlib import Path

from families.family import ModelFamily
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from trainer.randomness import NamedGenerators
from trainer.trainables.denoiser import DENOISER_WEIGHTS
from trainer.trainables.kind import Placement
from trainer.trainables.part import Parts
from trainer.trainables.text_encoders import TEXT_ENCODERS

WEIGHTS = (DENOISER_WEIGHTS.name, TEXT_ENCODERS.name)


def place_adapter(family: ModelFamily, config: TrainingConfig) -> Parts:
    placement = Placement(
        family, config.base_model, PreparedDataset(Path(), (), (), ()), config.all_concepts, config.adapters,
        config.tokens, NamedGenerators(0),
    )  # fmt: skip
    placed = {kind.name: kind.place(placement) for kind in (DENOISER_WEIGHTS, TEXT_ENCODERS)}
    return Parts({name: part for name, part in placed.items() if part is not None})

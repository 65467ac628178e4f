"""Loads the encoding parts of a base model, in this process or in each worker. The denoiser is not loaded."""

import torch

from families.family import ModelFamily
from preprocess.prepare import BaseRequirements
from settings.preparation import DataConfig
from settings.sections.base_model import BaseModelSection
from trainer.base_model import load_base
from trainer.distributed.processes import start
from trainer.resolution import base_requirements


def load_family(base: BaseModelSection, dtype: torch.dtype, zero_terminal_snr: bool) -> ModelFamily:
    """Load the base model without its denoiser's weights, not yet on the device. Raises BaseModelError."""
    return load_base(base, dtype, start("no"), zero_terminal_snr, denoiser=False)


def placed(family: ModelFamily, data: DataConfig, num_tokens: int) -> tuple[ModelFamily, BaseRequirements]:
    """Return the base model with its VAE on the encoding device, and its requirements on images and captions. The text
    encoders are not moved, since only the tokens of captions are counted."""
    family.vae.to(start("no").device)
    return family, base_requirements(family, data, num_tokens)


def open_base(
    base: BaseModelSection, dtype: torch.dtype, zero_terminal_snr: bool, data: DataConfig, num_tokens: int
) -> tuple[ModelFamily, BaseRequirements]:
    """Load the base model and place it, for a worker. Raises BaseModelError."""
    return placed(load_family(base, dtype, zero_terminal_snr), data, num_tokens)

"""Default learning rates, depending on the width of the base model: the usual ones at SDXL's width, larger ones below.

Under Adam, every entry of a matrix with n inputs moves by about the learning rate in a step, and all entries of a row
in agreement with the input. The output therefore moves by rate × n relative to the input, so the rate that changes a
model's features by the same amount is proportional to 1/n (Yang et al. 2022, arXiv 2203.03466, table 3; for the down
projection of a LoRA: Hayou et al. 2024, arXiv 2402.12354, §3). The common rates were found on denoisers of 640 to 3072
channels, for which they are used unchanged. They are multiplied for narrower models only: wider ones are trained at the
same rates in practice.
"""

from collections.abc import Sequence
from statistics import median

from families.family import ModelFamily, restoring
from settings.sections.optimization import ADAPTER_RATE, PLAIN_WORD_RATE
from trainer.adapters.targets import ending_with, layer_paths

DENOISER_WIDTH, TEXT_ENCODER_WIDTH = 1280, 768
"""SDXL's most frequent width in attention, and that of CLIP-L: for this width and larger ones, the common rates are
used."""


def adapter_rate(family: ModelFamily) -> float:
    """AdamW's usual rate of the adapter: higher if the trigger word has no trained tokens."""
    alone = not family.text_encoders and restoring(family) is None
    return denoiser_factor(family) * (PLAIN_WORD_RATE if alone else ADAPTER_RATE)


def denoiser_factor(family: ModelFamily) -> float:
    """Factor of the adapter's usual rate: DENOISER_WIDTH by the median width of the attention layers, at least 1."""
    attention = ending_with(layer_paths(family.denoiser), family.adapter_modules["attention"])
    return _factor(DENOISER_WIDTH, [len(family.denoiser.get_submodule(path).weight) for path in attention])


def text_encoder_factor(family: ModelFamily) -> float:
    """Factor of the usual rates of text encoders and tokens: TEXT_ENCODER_WIDTH by the narrowest encoder's width, at
    least 1; 1 if no encoder is trained."""
    return _factor(TEXT_ENCODER_WIDTH, [encoder.config.hidden_size for encoder in family.text_encoders])


def _factor(reference: int, widths: Sequence[int]) -> float:
    return max(1.0, reference / median(widths)) if widths else 1.0

"""SDXL's refiner: a second model for the last steps, with the second text encoder only (Podell et al. 2023, §2.5)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from torch import Tensor

from families.errors import BaseModelError
from families.family import ModelFamily, PromptFeatures
from families.loading.allowed import require_allowed
from families.loading.opening import LoadingOptions, open_pipeline
from families.loading.sources import find_base_model, pipeline_class_name
from families.noise.diffusion_process import DiffusionProcess
from families.noise.noise_process import NoiseProcess
from families.parts.clip_prompts import clip_output, embeds_as_inputs, pool_at_end_of_text, zeroed_where_empty
from families.parts.latents import freeze

ASKED_AS = "refiner"
PIPELINE = "StableDiffusionXLImg2ImgPipeline"
LATENTS_OF = ("latent_channels", "scaling_factor", "latents_mean", "latents_std")
"""Properties that must be equal for two VAEs with the same latent space."""


class SDXLRefiner:
    """A loaded refiner, frozen. Implements `families.family.Refiner` and `ReadsByClip`."""

    name: ClassVar[str] = "SDXL's refiner"

    def __init__(self, pipeline: StableDiffusionXLImg2ImgPipeline) -> None:
        """Raises ValueError for a noise process that is not a diffusion."""
        self._pipeline = pipeline
        self.text_encoders: list[Any] = [pipeline.text_encoder_2]
        self.tokenizers: list[Any] = [pipeline.tokenizer_2]
        self.noise_process: NoiseProcess = DiffusionProcess.from_scheduler(pipeline.scheduler)
        freeze(pipeline.unet, pipeline.vae, pipeline.text_encoder_2)
        pool_at_end_of_text(pipeline.tokenizer_2, pipeline.text_encoder_2)

    @property
    def device(self) -> torch.device:
        return next(self._pipeline.unet.parameters()).device

    def to(self, device: torch.device) -> "SDXLRefiner":
        self._pipeline.to(device)
        return self

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Return the penultimate hidden states (B, 77, D), and the projection (B, P)."""
        return self.encode_prompts_early(prompts, 0)

    def encode_prompts_early(self, prompts: Sequence[str], clip_skip: int) -> PromptFeatures:
        """As `encode_prompts`, from `clip_skip` layers earlier; the projection is always that of the whole encoder."""
        output = clip_output(self.tokenizers[0], self.text_encoders[0], prompts)
        features = PromptFeatures(self.encoder_states(0, output, clip_skip), output.text_embeds)
        return zeroed_where_empty(features, prompts) if self._pipeline.config.force_zeros_for_empty_prompt else features

    def encoder_states(self, number: int, output: Any, clip_skip: int) -> Tensor:
        """Return the penultimate hidden states, or earlier ones by `clip_skip`."""
        return output.hidden_states[-2 - clip_skip]

    def pipeline(self) -> StableDiffusionXLImg2ImgPipeline:
        """Return the pipeline over these modules."""
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """Return the two prompts as arguments of the pipeline."""
        return embeds_as_inputs(wanted, unwanted)

    def require_goes_with(self, base: ModelFamily) -> None:
        """Raises BaseModelError when the refiner cannot continue from the latents of this base."""
        own, theirs = self._pipeline.vae, base.vae
        different = [name for name in LATENTS_OF if own.config.get(name) != theirs.config.get(name)]
        if different or len(own.config.block_out_channels) != len(theirs.config.block_out_channels):
            raise BaseModelError(
                f"{ASKED_AS}: its latent space differs from that of the base model: their VAEs differ in "
                f"{different[0] if different else 'the reduction'}. Use a refiner made for this base model."
            )
        if not _same_noise(self.noise_process, base.noise_process):
            raise BaseModelError(
                f"{ASKED_AS}: its noise schedule differs from that of the base model, so timesteps have another noise "
                "level. Use a refiner made for this base model."
            )


def load_refiner(refiner: str, dtype: torch.dtype) -> SDXLRefiner:
    """Load a refiner: a hub id or a folder in diffusers' layout.

    Raises BaseModelError for a model that is not a refiner, cannot be loaded, or is not allowed by the operator.
    """
    require_allowed(ASKED_AS, refiner)
    source = find_base_model(refiner, ASKED_AS)
    if source.kind == "file":
        raise BaseModelError(
            f"{ASKED_AS}: {refiner} is a single file. Give a folder in diffusers' layout, or a hub id such as "
            "stabilityai/stable-diffusion-xl-refiner-1.0."
        )
    kind = pipeline_class_name(source)
    if kind != PIPELINE:
        raise BaseModelError(
            f"{ASKED_AS}: {refiner} is a {kind}, not a refiner ({PIPELINE}) such as "
            "stabilityai/stable-diffusion-xl-refiner-1.0"
        )
    pipeline = open_pipeline(
        StableDiffusionXLImg2ImgPipeline, source, LoadingOptions(dtype), add_watermarker=False
    )  # fmt: skip
    if pipeline.text_encoder is not None or pipeline.text_encoder_2 is None or pipeline.tokenizer_2 is None:
        raise BaseModelError(
            f"{ASKED_AS}: {refiner} is not a refiner, which only has the second text encoder. Fully fine-tuned SDXL "
            "models are base models: set base_model."
        )
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise BaseModelError(
            f"{ASKED_AS}: {refiner} is an inpainting or editing model: its UNet has more inputs than latents"
        )
    try:
        return SDXLRefiner(pipeline)
    except ValueError as error:
        raise BaseModelError(f"{ASKED_AS}: {refiner}: {error}") from error


def _same_noise(one: Any, other: Any) -> bool:
    """Whether both have the same ᾱ_t, to a tolerance above rounding."""
    alphas = getattr(other, "alphas_cumprod", None)
    if alphas is None or alphas.shape != one.alphas_cumprod.shape:
        return False
    return bool(torch.allclose(one.alphas_cumprod, alphas, rtol=1e-4, atol=1e-7))

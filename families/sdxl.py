"""Stable Diffusion XL and models with its layout, including the embedded mini-sdxl (Podell et al. 2023)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from torch import Tensor

from families.conditioning import refuse_conditioning
from families.controls.control import USUAL_FORM, ControlForm
from families.controls.controlnet import controlnet_of, residual_inputs, unet_residuals
from families.family import (
    Conditioning,
    DenoiserKind,
    FamilyDefaults,
    GuidanceKind,
    LayerNaming,
    PromptFeatures,
    Refiner,
    SizeConditioning,
)
from families.loading.opening import LoadingOptions, adapt_scheduler, open_pipeline
from families.loading.sources import BaseModelSource
from families.noise.edm_process import EDMProcess
from families.noise.noise_process import NoiseProcess
from families.noise.of_scheduler import process_of
from families.parts.clip_prompts import clip_output, embeds_as_inputs, pool_at_end_of_text, zeroed_where_empty
from families.parts.latents import (
    decoded,
    freeze,
    posterior_moments,
    posterior_shape,
    sample_posterior,
    standardised,
    unstandardised,
)
from families.parts.unet import UNET_ADAPTER_MODULES, require_text_to_image, unet_resolution, unet_size_multiple

B_LORA_BLOCKS = {"content": "up_blocks.0.attentions.0", "style": "up_blocks.0.attentions.1"}
"""Blocks of SDXL's UNet that determine content and style (Frenkel et al. 2024, B-LoRA)."""


class SDXL:
    """A loaded base in SDXL's layout, frozen. Implements `families.family.ModelFamily`."""

    name: ClassVar[str] = "sdxl"
    pipeline_class_name: ClassVar[str] = "StableDiffusionXLPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = UNET_ADAPTER_MODULES
    layer_naming: ClassVar[LayerNaming] = "kohya_sgm"
    denoiser_kind: ClassVar[DenoiserKind] = "unet"
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    training_notes: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults()
    steered_blocks: ClassVar[int] = 0
    b_lora_blocks: ClassVar[Mapping[str, str]] = B_LORA_BLOCKS

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        self._pipeline = pipeline
        self.denoiser: Any = pipeline.unet
        self.vae: Any = pipeline.vae
        self.text_encoders: list[Any] = [pipeline.text_encoder, pipeline.text_encoder_2]
        self.tokenizers: list[Any] = [pipeline.tokenizer, pipeline.tokenizer_2]
        self.encoder_names: tuple[str, ...] = ("clip_l", "clip_g")
        self.noise_process: NoiseProcess = process_of(pipeline.scheduler)
        freeze(self.denoiser, self.vae, *self.text_encoders)
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            pool_at_end_of_text(tokenizer, encoder)

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "SDXL":
        """Open the base. Raises BaseModelError when it cannot be opened or used."""
        pipeline = open_pipeline(StableDiffusionXLPipeline, source, options, add_watermarker=False)
        require_text_to_image(pipeline, source.name)
        adapt_scheduler(pipeline, options)
        return cls(pipeline)

    @property
    def timestep_ends(self) -> tuple[float, float]:
        process = self.noise_process
        return process.timestep_ends if isinstance(process, EDMProcess) else (0.0, 1000.0)

    @property
    def architecture(self) -> str:
        return "stable-diffusion-xl-v1-base"

    @property
    def base_model_version(self) -> str:
        return "sdxl_base_v1-0"

    @property
    def idle_modules(self) -> tuple[str, ...]:
        return ()

    @property
    def native_resolution(self) -> int:
        return unet_resolution(self._pipeline)

    @property
    def size_multiple(self) -> int:
        return unet_size_multiple(self._pipeline)

    @property
    def largest_side(self) -> int | None:
        return None

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device) -> "SDXL":
        self._pipeline.to(device)
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        return posterior_moments(self.vae, pixels)

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return posterior_shape(cached)

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return standardised(self.vae, sample_posterior(cached, noise))

    def decode(self, latents: Tensor) -> Tensor:
        return decoded(self.vae, unstandardised(self.vae, latents))

    def offload_picture_parts(self) -> None:
        self.vae.to("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """The concatenated penultimate hidden states of both encoders (B, 77, D₁ + D₂), and the second's projection.

        An empty prompt is all zeros where the base was trained so (`force_zeros_for_empty_prompt`).
        """
        return self.encode_prompts_early(prompts, 0)

    def encode_prompts_early(self, prompts: Sequence[str], clip_skip: int) -> PromptFeatures:
        """The same from `clip_skip` layers earlier; the projection is always that of the whole encoder."""
        outputs = [clip_output(*pair, prompts) for pair in zip(self.tokenizers, self.text_encoders, strict=True)]
        states = [self.encoder_states(number, output, clip_skip) for number, output in enumerate(outputs)]
        features = PromptFeatures(torch.cat(states, dim=-1), outputs[1].text_embeds)
        return zeroed_where_empty(features, prompts) if self._pipeline.config.force_zeros_for_empty_prompt else features

    def encoder_states(self, number: int, output: Any, clip_skip: int) -> Tensor:
        """The penultimate hidden states, or earlier ones."""
        return output.hidden_states[-2 - clip_skip]

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The UNet's prediction (B, C, h, w) in fp32."""
        refuse_conditioning(conditioning, self.name, known=("residuals",))
        embeds = prompts.prompt_embeds
        return self.denoiser(
            noised.to(embeds.dtype),
            timesteps,
            encoder_hidden_states=embeds,
            added_cond_kwargs=_added_conditions(prompts, sizes),
            **residual_inputs(conditioning, embeds),
        ).sample.float()

    def new_controlnet(self, form: ControlForm = USUAL_FORM) -> Any:
        return controlnet_of(self._pipeline)

    def control_residuals(
        self,
        controlnet: Any,
        pictures: Tensor,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning:
        return unet_residuals(controlnet, pictures, noised, timesteps, prompts, _added_conditions(prompts, sizes))

    def control_pipeline(self, controlnet: Any) -> StableDiffusionXLControlNetPipeline:
        return StableDiffusionXLControlNetPipeline(
            **self.pipeline().components,
            controlnet=controlnet,
            force_zeros_for_empty_prompt=self._pipeline.config.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )

    def load_refiner(self, refiner: str, dtype: torch.dtype) -> Refiner:
        """Open a refiner. Raises BaseModelError."""
        from families.parts.sdxl_refiner import load_refiner

        return load_refiner(refiner, dtype)

    def pipeline(self) -> StableDiffusionXLPipeline:
        """The pipeline over these modules, with this object's tokenizers."""
        self._pipeline.tokenizer, self._pipeline.tokenizer_2 = self.tokenizers
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        return embeds_as_inputs(wanted, unwanted)


def _added_conditions(prompts: PromptFeatures, sizes: Sequence[SizeConditioning]) -> dict[str, Tensor]:
    """The pooled prompt and the sizes, as the UNet and ControlNets of SDXL read them."""
    embeds, pooled = prompts.prompt_embeds, prompts.pooled_prompt_embeds
    assert pooled is not None
    time_ids = torch.tensor([[*size.original, *size.crop, *size.target] for size in sizes], dtype=embeds.dtype)
    return {"text_embeds": pooled, "time_ids": time_ids.to(embeds.device, non_blocking=True)}

"""Stable Diffusion 1.x and 2.x and models with their layout (Rombach et al. 2022): one text encoder, ε or v."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline
from torch import Tensor

from families.conditioning import refuse_conditioning
from families.controls.control import USUAL_FORM, ControlForm
from families.controls.controlnet import controlnet_of, residual_inputs, unet_residuals
from families.errors import BaseModelError
from families.family import (
    Conditioning,
    DenoiserKind,
    FamilyDefaults,
    GuidanceKind,
    LayerNaming,
    PromptFeatures,
    SizeConditioning,
)
from families.loading.opening import LoadingOptions, adapt_scheduler, open_pipeline
from families.loading.single_file import has_tensors
from families.loading.sources import BaseModelSource
from families.noise.diffusion_process import DiffusionProcess
from families.noise.noise_process import NoiseProcess
from families.parts.clip_prompts import clip_output, embeds_as_inputs, pool_at_end_of_text
from families.parts.latents import decoded, freeze, posterior_moments, posterior_shape, sample_posterior
from families.parts.unet import UNET_ADAPTER_MODULES, require_text_to_image, unet_resolution, unet_size_multiple


class SD15:
    """A loaded base in SD1's or SD2's layout, frozen. Implements `families.family.ModelFamily`."""

    name: ClassVar[str] = "sd15"
    pipeline_class_name: ClassVar[str] = "StableDiffusionPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = UNET_ADAPTER_MODULES
    layer_naming: ClassVar[LayerNaming] = "kohya"
    denoiser_kind: ClassVar[DenoiserKind] = "unet"
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    training_notes: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults()
    steered_blocks: ClassVar[int] = 0
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1000.0)

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self._pipeline = pipeline
        self.denoiser: Any = pipeline.unet
        self.vae: Any = pipeline.vae
        self.text_encoders: list[Any] = [pipeline.text_encoder]
        self.tokenizers: list[Any] = [pipeline.tokenizer]
        self.encoder_names: tuple[str, ...] = ("clip_h",) if self._second_generation else ("clip_l",)
        self.noise_process: NoiseProcess = DiffusionProcess.from_scheduler(pipeline.scheduler)
        freeze(self.denoiser, self.vae, *self.text_encoders)
        pool_at_end_of_text(pipeline.tokenizer, pipeline.text_encoder)

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "SD15":
        """Open the base, without its safety checker. Raises BaseModelError when it cannot be opened or used."""
        silent = source.kind == "file" and options.prediction_type == "auto" and options.base_config is None
        if silent and has_tensors(Path(source.location), "cond_stage_model.model."):  # OpenCLIP: SD2
            raise BaseModelError(
                f"base_model: {source.name} is an SD2 checkpoint, and the single file does not contain its prediction "
                "type: set prediction_type to v_prediction (the 768 models) or epsilon (the 512 models), or base_config"
            )
        pipeline = open_pipeline(
            StableDiffusionPipeline, source, options, safety_checker=None, requires_safety_checker=False
        )
        require_text_to_image(pipeline, source.name)
        adapt_scheduler(pipeline, options)
        return cls(pipeline)

    @property
    def _second_generation(self) -> bool:
        """SD2's transformers project by linear layers, SD1's by 1×1 convolutions."""
        return bool(self.denoiser.config.use_linear_projection)

    @property
    def architecture(self) -> str:
        if not self._second_generation:
            return "stable-diffusion-v1"
        predicts_v = self.noise_process.prediction_type == "v_prediction"
        return "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512"

    @property
    def base_model_version(self) -> str:
        generation = "sd_v2" if self._second_generation else "sd_v1"
        return f"{generation}_v" if self.noise_process.prediction_type == "v_prediction" else generation

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

    def to(self, device: torch.device) -> "SD15":
        self._pipeline.to(device)
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        return posterior_moments(self.vae, pixels)

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return posterior_shape(cached)

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return sample_posterior(cached, noise) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return decoded(self.vae, latents / self.vae.config.scaling_factor)

    def offload_picture_parts(self) -> None:
        self.vae.to("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """The last hidden states after the final norm (B, 77, D). In SD2 the text encoder already lacks the last
        layer."""
        return self.encode_prompts_early(prompts, 0)

    def encode_prompts_early(self, prompts: Sequence[str], clip_skip: int) -> PromptFeatures:
        """The states `clip_skip` layers earlier, after the same final norm."""
        output = clip_output(self.tokenizers[0], self.text_encoders[0], prompts)
        return PromptFeatures(self.encoder_states(0, output, clip_skip))

    def encoder_states(self, number: int, output: Any, clip_skip: int) -> Tensor:
        """The last hidden states, or earlier ones, after the final norm."""
        if clip_skip == 0:
            return output.last_hidden_state
        encoder: Any = getattr(self.text_encoders[number], "text_model", self.text_encoders[number])
        return encoder.final_layer_norm(output.hidden_states[-1 - clip_skip])

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The UNet's prediction (B, C, h, w) in fp32. Sizes are ignored."""
        refuse_conditioning(conditioning, self.name, known=("residuals",))
        embeds = prompts.prompt_embeds
        return self.denoiser(
            noised.to(embeds.dtype),
            timesteps,
            encoder_hidden_states=embeds,
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
        return unet_residuals(controlnet, pictures, noised, timesteps, prompts)

    def control_pipeline(self, controlnet: Any) -> StableDiffusionControlNetPipeline:
        return StableDiffusionControlNetPipeline(
            **self.pipeline().components, controlnet=controlnet, requires_safety_checker=False
        )

    def pipeline(self) -> StableDiffusionPipeline:
        """The pipeline over these modules, with this object's tokenizer."""
        (self._pipeline.tokenizer,) = self.tokenizers
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        return embeds_as_inputs(wanted, unwanted)

"""FLUX.1 dev and schnell: a transformer trained by flow matching, distilled (Black Forest Labs 2024).

T5 reads the prompt, and CLIP's pooled vector is added. New tokens would affect the transformer only through that
vector, which has little effect. Therefore the trigger is a plain word. Both encoders are frozen, encode all prompts at
once, and are freed before the transformer's weights are loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, CLIPTextModel, CLIPTokenizer, T5EncoderModel

from families.conditioning import refuse_conditioning
from families.family import (
    Conditioning,
    DenoiserKind,
    FamilyDefaults,
    GuidanceKind,
    LayerNaming,
    PromptFeatures,
    SizeConditioning,
)
from families.loading.flux_names import flux1_tensors
from families.loading.opening import LoadingOptions, refuse_diffusion_options
from families.loading.pipeline_parts import PipelineParts
from families.loading.sources import BaseModelSource
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import NoiseProcess
from families.parts.clip_prompts import clip_output
from families.parts.frozen_text import FrozenText, ReadPrompts, aside, reading_device
from families.parts.latents import (
    decoded,
    normalised,
    posterior_moments,
    posterior_shape,
    sample_posterior,
    unnormalised,
)
from families.parts.patches import grid_places, latents_of, patches_of

PATCH = 2
PARTS = {
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "text_encoder_2": "T5EncoderModel",
    "transformer": "FluxTransformer2DModel",
}
DEV = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=3.5, num_inference_steps=28)
SCHNELL = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=0.0, num_inference_steps=4)
DEV_LENGTH, SCHNELL_LENGTH = 512, 256
"""Number of prompt tokens for T5, including padding."""
TRAINING_GUIDANCE = 1.0
"""dev is distilled with guidance; with the value 1 it predicts the distribution of the data, and is trained with it."""


SCHNELL_NOTE = (
    "this base model (FLUX.1 schnell) is distilled to generate images in 4 steps. Training removes the distillation: "
    "samples with few steps become blurred. Train on FLUX.1 dev, and use the LoRA on schnell; or set a training "
    "adapter for schnell (training_adapter: FILE); or keep the training short."
)


class Flux1:
    """A FLUX.1 base, frozen. Implements `families.family.ModelFamily` and `ReadsByFrozenModel`."""

    name: ClassVar[str] = "flux1"
    pipeline_class_name: ClassVar[str] = "FluxPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": (
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        "feed-forward": (
            *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
            *("proj_mlp", "single_transformer_blocks.*.proj_out"),  # the last layer is called proj_out, too
        ),
        "convolutions": (),
    }
    layer_naming: ClassVar[LayerNaming] = "peft"
    denoiser_kind: ClassVar[DenoiserKind] = "transformer"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1.0)
    defaults: FamilyDefaults = DEV
    text_encoders: list[Any]
    tokenizers: list[Any]

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        self.denoiser: Any = parts.skeleton("transformer", FluxTransformer2DModel)
        self.vae: Any = parts.load("vae", AutoencoderKL)
        self.text_encoders, self.tokenizers = [], []
        self.encoder_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        if not self._is_dev:
            self.defaults = SCHNELL
        self._pipeline = FluxPipeline(
            scheduler=parts.load("scheduler", FlowMatchEulerDiscreteScheduler),
            vae=self.vae,
            text_encoder=None,
            tokenizer=parts.load("tokenizer", CLIPTokenizer),
            text_encoder_2=None,
            tokenizer_2=parts.load("tokenizer_2", AutoTokenizer),
            transformer=self.denoiser,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self.noise_process: NoiseProcess = FlowMatching.from_scheduler(self._pipeline.scheduler, PATCH)
        self._text = FrozenText(self._load_text_encoders, lambda: aside(self.denoiser))

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "Flux1":
        """Locate the components, and load the small ones. Raises BaseModelError if one is missing or does not match."""
        refuse_diffusion_options(source, options)
        parts = PipelineParts.of(source, options, PARTS)
        transformer = parts.config("transformer", FluxTransformer2DModel)
        vae = parts.config("vae", AutoencoderKL)
        parts.require_equal(
            ("the transformer's in_channels", transformer["in_channels"]),
            ("the VAE's latent_channels times the patch area", vae["latent_channels"] * PATCH**2),
        )
        parts.require_equal(
            ("the transformer's pooled_projection_dim", transformer["pooled_projection_dim"]),
            ("CLIP's hidden_size", parts.config("text_encoder", AutoConfig)["hidden_size"]),
        )
        parts.require_equal(
            ("the transformer's joint_attention_dim", transformer["joint_attention_dim"]),
            ("T5's d_model", parts.config("text_encoder_2", AutoConfig)["d_model"]),
        )
        return cls(parts)

    @property
    def _is_dev(self) -> bool:
        """Whether it is dev, which has an input for the guidance scale; schnell does not."""
        return bool(self.denoiser.config.guidance_embeds)

    @property
    def _t5_length(self) -> int:
        return DEV_LENGTH if self._is_dev else SCHNELL_LENGTH

    @property
    def guidance_kind(self) -> GuidanceKind:
        return "embedded" if self._is_dev else "none"

    @property
    def training_notes(self) -> tuple[str, ...]:
        return () if self._is_dev else (SCHNELL_NOTE,)

    @property
    def architecture(self) -> str:
        return "flux-1-dev" if self._is_dev else "flux-1-schnell"

    @property
    def base_model_version(self) -> str:
        return "flux1"

    @property
    def idle_modules(self) -> tuple[str, ...]:
        return ()

    @property
    def native_resolution(self) -> int:
        return int(self.vae.config.sample_size)

    @property
    def size_multiple(self) -> int:
        """The VAE's reduction times the patch: 16."""
        return int(self._pipeline.vae_scale_factor * PATCH)

    @property
    def largest_side(self) -> int | None:
        return None

    def to(self, device: torch.device) -> "Flux1":
        """Loads the transformer's weights when it is first called, directly to `device`."""
        if next(self.denoiser.parameters()).is_meta:
            self.denoiser = self._parts.denoiser("transformer", FluxTransformer2DModel, flux1_tensors, device)
            self._pipeline.register_modules(transformer=self.denoiser)
        self._pipeline.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        return posterior_moments(self.vae, pixels)

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return posterior_shape(cached)

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return normalised(self.vae, sample_posterior(cached, noise))

    def decode(self, latents: Tensor) -> Tensor:
        return decoded(self.vae, unnormalised(self.vae, latents))

    def offload_picture_parts(self) -> None:
        self.vae.to("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """T5's states (B, 512 or 256, D) with those of the padding, and CLIP's pooled vector (B, P)."""
        return self._text.features(prompts, self.device)

    def keep_prompts(self, folder: Path) -> None:
        self._text.keep_in(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        self._text.read_ahead(prompts)

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """The number of T5's tokens. CLIP reads its first 77 tokens, as in diffusers' pipeline."""
        return len(self._pipeline.tokenizer_2(prompt, verbose=False).input_ids), self._t5_length

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The velocity (B, C, h, w) in fp32. Sizes are ignored."""
        refuse_conditioning(conditioning, self.name)
        count, _, height, width = noised.shape
        places = grid_places(height // PATCH, width // PATCH, noised.device)
        text = prompts.prompt_embeds
        prediction = self.denoiser(
            hidden_states=patches_of(noised.to(text.dtype), PATCH),
            timestep=timesteps / self.noise_process.num_timesteps,
            guidance=noised.new_full((count,), TRAINING_GUIDANCE) if self._is_dev else None,
            pooled_projections=prompts.pooled_prompt_embeds,
            encoder_hidden_states=text,
            txt_ids=places.new_zeros(text.shape[1], 3),
            img_ids=functional.pad(places, (1, 0)),
        ).sample
        return latents_of(prediction, height, width, PATCH).float()

    def pipeline(self) -> FluxPipeline:
        """The pipeline over these modules, without its text encoders."""
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """Guidance is distilled into the transformer, so there is no negative prompt."""
        return {"prompt_embeds": wanted.prompt_embeds, "pooled_prompt_embeds": wanted.pooled_prompt_embeds}

    def _load_text_encoders(self) -> ReadPrompts:
        device = reading_device()
        clip = self._parts.load("text_encoder", CLIPTextModel).to(device)
        t5 = self._parts.load("text_encoder_2", T5EncoderModel).to(device)
        clip_tokenizer, t5_tokenizer = self._pipeline.tokenizer, self._pipeline.tokenizer_2

        def read(prompts: Sequence[str]) -> PromptFeatures:
            pooled = clip_output(clip_tokenizer, clip, prompts).pooler_output
            batch = t5_tokenizer(
                list(prompts), padding="max_length", max_length=self._t5_length, truncation=True, return_tensors="pt"
            )
            return PromptFeatures(t5(batch.input_ids.to(device)).last_hidden_state, pooled)

        return read

"""FLUX.2 dev, klein, and klein's base models: a transformer trained with flow matching (Black Forest Labs 2025). A
language model encodes the prompt; the states of three of its layers are concatenated. It is frozen and freed before the
transformer's weights are loaded, so the trigger is a plain word. klein has Qwen3, dev has Mistral.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer

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
from families.loading.opening import LoadingOptions, refuse_diffusion_options
from families.loading.pipeline_parts import PipelineParts
from families.loading.sources import BaseModelSource
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import NoiseProcess
from families.parts.chat_prompts import require_chat_template
from families.parts.flux2_text import DEV_TEXT, KLEIN_TEXT
from families.parts.frozen_text import FrozenText, ReadPrompts, aside, reading_device
from families.parts.latents import decoded, posterior_moments
from families.parts.patches import grid_places, latents_of, patches_of

PATCH = 2
"""Latent pixels per token along one side: the latents already contain the patches as channels."""
DEV_PIPELINE = "Flux2Pipeline"
DEV = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=4.0, num_inference_steps=50)
KLEIN_BASE = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=4.0, num_inference_steps=50)
KLEIN = FamilyDefaults(num_tokens=0, fewest_tokens=0, guidance_scale=1.0, num_inference_steps=4)
TRAINING_GUIDANCE = 1.0
KLEIN_NOTE = (
    "this base model (FLUX.2 klein) is distilled to generate images in 4 steps. Training removes the distillation: "
    "samples with few steps become blurred. Train on klein's base model of the same size, and use the LoRA on klein; "
    "or set a training adapter for klein (training_adapter: FILE); or keep the training short."
)
SIZES = {3072: "klein-4b", 4096: "klein-9b"}
"""klein's sizes by the transformer's width."""


class Flux2:
    """A FLUX.2 base, frozen. Implements `families.family.ModelFamily` and `ReadsByFrozenModel`."""

    name: ClassVar[str] = "flux2"
    pipeline_class_name: ClassVar[str] = "Flux2KleinPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": (
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            *("attn.to_qkv_mlp_proj", "attn.to_out"),  # single blocks: attention and feed-forward in one
        ),
        "feed-forward": ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
        "convolutions": (),
    }
    layer_naming: ClassVar[LayerNaming] = "peft"
    denoiser_kind: ClassVar[DenoiserKind] = "transformer"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1.0)
    defaults: FamilyDefaults = KLEIN_BASE
    text_encoders: list[Any]
    tokenizers: list[Any]

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        self.denoiser: Any = parts.skeleton("transformer", Flux2Transformer2DModel)
        self.vae: Any = parts.load("vae", AutoencoderKLFlux2)
        self.text_encoders, self.tokenizers = [], []
        self.encoder_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        self._reading = DEV_TEXT if self._is_dev else KLEIN_TEXT
        self._distilled = not self._is_dev and bool(parts.index.get("is_distilled"))
        self.defaults = DEV if self._is_dev else KLEIN if self._distilled else KLEIN_BASE
        tokenizer = parts.load("tokenizer", AutoTokenizer)
        require_chat_template(tokenizer)
        modules = {
            "scheduler": parts.load("scheduler", FlowMatchEulerDiscreteScheduler),
            "vae": self.vae,
            "text_encoder": None,
            "tokenizer": tokenizer,
            "transformer": self.denoiser,
        }
        if self._is_dev:
            self._pipeline: Any = Flux2Pipeline(**modules)
        else:
            self._pipeline = Flux2KleinPipeline(**modules, is_distilled=self._distilled)
        self._pipeline.set_progress_bar_config(disable=True)
        self.noise_process: NoiseProcess = FlowMatching.from_scheduler(self._pipeline.scheduler, patch=1)
        self._text = FrozenText(self._load_text_encoder, lambda: aside(self.denoiser))

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "Flux2":
        """Locate the components, and load the small ones. Raises BaseModelError if one is missing or does not match."""
        refuse_diffusion_options(source, options)
        parts = PipelineParts.of(source, options, {"transformer": "Flux2Transformer2DModel"})
        transformer = parts.config("transformer", Flux2Transformer2DModel)
        reading = DEV_TEXT if parts.index["_class_name"] == DEV_PIPELINE else KLEIN_TEXT
        parts.require(
            {
                "scheduler": "FlowMatchEulerDiscreteScheduler",
                "vae": "AutoencoderKLFlux2",
                "text_encoder": reading.model_class.__name__,
            }
        )
        vae = parts.config("vae", AutoencoderKLFlux2)
        parts.require_equal(
            ("the transformer's in_channels", transformer["in_channels"]),
            ("the VAE's latent_channels times the patch area", vae["latent_channels"] * PATCH**2),
        )
        text = parts.config("text_encoder", AutoConfig)
        parts.require_equal(
            ("the transformer's joint_attention_dim", transformer["joint_attention_dim"]),
            ("the width of the text encoder's concatenated states", reading.width(text)),
        )
        return cls(parts)

    @property
    def _is_dev(self) -> bool:
        return bool(self._parts.index["_class_name"] == DEV_PIPELINE)

    @property
    def guidance_kind(self) -> GuidanceKind:
        return "embedded" if self._is_dev else "none" if self._distilled else "classifier-free"

    @property
    def training_notes(self) -> tuple[str, ...]:
        return (KLEIN_NOTE,) if self._distilled else ()

    @property
    def architecture(self) -> str:
        return f"flux-2-{self._size}"

    @property
    def base_model_version(self) -> str:
        return f"flux2_{self._size.replace('-', '_')}"

    @property
    def _size(self) -> str:
        """The official name of its size: dev, klein-4b, klein-9b."""
        config = self.denoiser.config
        return "dev" if self._is_dev else SIZES.get(config.num_attention_heads * config.attention_head_dim, "klein")

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

    def to(self, device: torch.device) -> "Flux2":
        """Loads the transformer's weights when it is first called, directly to `device`."""
        if next(self.denoiser.parameters()).is_meta:
            self.denoiser = self._parts.denoiser(
                "transformer", Flux2Transformer2DModel, convert_flux2_transformer_checkpoint_to_diffusers, device
            )
            self._pipeline.register_modules(transformer=self.denoiser)
        self._pipeline.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """The mean of the posterior, as in FLUX.2's pipelines. Patches of 2 × 2 become channels, which are then
        normalised by the statistics of the VAE's batch norm: (B, 4C, H/16, W/16)."""
        mean = posterior_moments(self.vae, pixels).chunk(2, dim=1)[0]
        patches = functional.pixel_unshuffle(mean, PATCH)
        center, spread = self._statistics(patches)
        return (patches - center) / spread

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return cached

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return cached

    def decode(self, latents: Tensor) -> Tensor:
        center, spread = self._statistics(latents)
        return decoded(self.vae, functional.pixel_shuffle(latents * spread + center, PATCH))

    def offload_picture_parts(self) -> None:
        self.vae.to("cpu")

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel: (1, 4C, 1, 1)."""
        norm = self.vae.bn
        mean, variance = norm.running_mean.to(like), norm.running_var.to(like)
        return mean.view(1, -1, 1, 1), (variance + self.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """Concatenated states of three layers (B, 512, 3D), including those of the padding: the transformer has no
        mask."""
        return self._text.features(prompts, self.device)

    def keep_prompts(self, folder: Path) -> None:
        self._text.keep_in(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        self._text.read_ahead(prompts)

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Including the tokens of the chat template."""
        return self._reading.count(self._pipeline.tokenizer, prompt), self._reading.length

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """The velocity (B, 4C, h, w) in fp32. Sizes are ignored. A token's position: (0, row, column, 0), and for the
        text (0, 0, 0, position)."""
        refuse_conditioning(conditioning, self.name)
        count, _, height, width = noised.shape
        text = prompts.prompt_embeds
        places = functional.pad(grid_places(height, width, noised.device), (1, 1))
        positions = torch.arange(text.shape[1], device=noised.device, dtype=places.dtype)
        prediction = self.denoiser(
            hidden_states=patches_of(noised.to(text.dtype), 1),
            timestep=timesteps / self.noise_process.num_timesteps,
            guidance=noised.new_full((count,), TRAINING_GUIDANCE) if self._is_dev else None,
            encoder_hidden_states=text,
            txt_ids=functional.pad(positions.unsqueeze(1), (3, 0)),
            img_ids=places,
        ).sample
        return latents_of(prediction, height, width, 1).float()

    def pipeline(self) -> Any:
        """The pipeline over these modules, without its text encoder."""
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """klein's base models have a negative prompt; the guidance of the others is distilled into the transformer."""
        inputs = {"prompt_embeds": wanted.prompt_embeds}
        if self.guidance_kind == "classifier-free":
            inputs["negative_prompt_embeds"] = unwanted.prompt_embeds
        return inputs

    def _load_text_encoder(self) -> ReadPrompts:
        model = self._parts.load("text_encoder", self._reading.model_class).to(reading_device())
        tokenizer, reading = self._pipeline.tokenizer, self._reading
        return lambda prompts: PromptFeatures(reading.states(model, tokenizer, prompts))

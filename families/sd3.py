"""Stable Diffusion 3 and 3.5: a transformer trained with flow matching (Esser et al. 2024).

It has three text encoders, of which the two CLIPs get new tokens. T5, if the base has it, encodes the prompt without
the placeholder tokens: its embeddings are large and its encoder is deep, so new tokens would be trained poorly.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor
from torch.nn import functional

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
from families.loading.opening import LoadingOptions, open_pipeline, refuse_diffusion_options
from families.loading.single_file import has_tensors
from families.loading.sources import BaseModelSource, read_index
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import NoiseProcess
from families.parts.clip_prompts import clip_output, embeds_as_inputs, pool_at_end_of_text
from families.parts.latents import (
    decoded,
    freeze,
    normalised,
    posterior_moments,
    posterior_shape,
    sample_posterior,
    unnormalised,
)
from families.parts.placeholder_tokens import without_placeholders

T5_LENGTH = 256
"""Number of prompt tokens for T5 (§5.3 trains with 77 and samples with 77 to 256; diffusers uses 256)."""


class SD3:
    """A loaded SD3 or SD3.5 base, frozen. Implements `families.family.ModelFamily`."""

    name: ClassVar[str] = "sd3"
    pipeline_class_name: ClassVar[str] = "StableDiffusion3Pipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": (
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        "feed-forward": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        "convolutions": (),
    }
    layer_naming: ClassVar[LayerNaming] = "peft"
    denoiser_kind: ClassVar[DenoiserKind] = "transformer"
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    training_notes: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults()
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1000.0)

    def __init__(self, pipeline: StableDiffusion3Pipeline) -> None:
        self._pipeline = pipeline
        self.denoiser: Any = pipeline.transformer
        self.vae: Any = pipeline.vae
        self.text_encoders: list[Any] = [pipeline.text_encoder, pipeline.text_encoder_2]
        self.tokenizers: list[Any] = [pipeline.tokenizer, pipeline.tokenizer_2]
        self.encoder_names: tuple[str, ...] = ("clip_l", "clip_g")
        self.noise_process: NoiseProcess = FlowMatching.from_scheduler(pipeline.scheduler)
        freeze(self.denoiser, self.vae, *self.text_encoders, pipeline.text_encoder_3)
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            pool_at_end_of_text(tokenizer, encoder)

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "SD3":
        """Load the base, with T5 if it has one. Raises BaseModelError when it cannot be loaded or used."""
        refuse_diffusion_options(source, options)
        t5 = {} if _has_t5(source) else {"text_encoder_3": None, "tokenizer_3": None}
        return cls(open_pipeline(StableDiffusion3Pipeline, source, options, **t5))

    @property
    def architecture(self) -> str:
        return "stable-diffusion-3.5" if self.denoiser.config.qk_norm else "stable-diffusion-3-medium"

    @property
    def base_model_version(self) -> str:
        """SD3.5 normalises queries and keys, SD3 does not; the medium 3.5 has a second attention in some blocks."""
        if not self.denoiser.config.qk_norm:
            return "sd3-m"
        return "sd3.5-medium" if self.denoiser.config.dual_attention_layers else "sd3.5-large"

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """Layers of the last block whose output is unused: of its text stream only keys and values are read."""
        layers = ("add_q_proj", "norm_added_q") if self.denoiser.config.qk_norm else ("add_q_proj",)
        return tuple(f"transformer_blocks.{self.denoiser.config.num_layers - 1}.attn.{layer}" for layer in layers)

    @property
    def native_resolution(self) -> int:
        return int(self.denoiser.config.sample_size * self._pipeline.vae_scale_factor)

    @property
    def size_multiple(self) -> int:
        """The VAE's reduction times the patch: 16."""
        return int(self._pipeline.vae_scale_factor * self.denoiser.config.patch_size)

    @property
    def largest_side(self) -> int | None:
        """The side for the number of position embeddings: 3072 for SD3, 6144 for SD3.5 medium."""
        return int(self.denoiser.config.pos_embed_max_size * self.size_multiple)

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device) -> "SD3":
        self._pipeline.to(device)
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
        """Concatenate both CLIPs' penultimate states along the width, padded to T5's, and append T5's: (B, 77 + 256,
        D)."""
        outputs = [clip_output(*pair, prompts) for pair in zip(self.tokenizers, self.text_encoders, strict=True)]
        clip = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        t5 = self._t5_states(prompts).to(clip)
        clip = functional.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return PromptFeatures(torch.cat([clip, t5], dim=1), pooled)

    def _t5_states(self, prompts: Sequence[str]) -> Tensor:
        """Return T5's states (B, 256, D); zeros if the base has no T5, as in training without it."""
        encoder, tokenizer = self._pipeline.text_encoder_3, self._pipeline.tokenizer_3
        if encoder is None:
            return torch.zeros(len(prompts), T5_LENGTH, self.denoiser.config.joint_attention_dim, device=self.device)
        texts = [without_placeholders(prompt) for prompt in prompts]
        batch = tokenizer(texts, padding="max_length", max_length=T5_LENGTH, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return encoder(batch.input_ids.to(encoder.device, non_blocking=True)).last_hidden_state

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """Return the transformer's prediction (B, C, h, w) in fp32. Sizes are ignored."""
        refuse_conditioning(conditioning, self.name)
        return self.denoiser(
            hidden_states=noised.to(prompts.prompt_embeds.dtype),
            timestep=timesteps,
            encoder_hidden_states=prompts.prompt_embeds,
            pooled_projections=prompts.pooled_prompt_embeds,
        ).sample.float()

    def pipeline(self) -> StableDiffusion3Pipeline:
        """Return the pipeline over these modules, with this object's tokenizers."""
        self._pipeline.tokenizer, self._pipeline.tokenizer_2 = self.tokenizers
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        return embeds_as_inputs(wanted, unwanted)


def _has_t5(source: BaseModelSource) -> bool:
    if source.kind == "file":
        return has_tensors(Path(source.location), "text_encoders.t5xxl.")
    return (read_index(source).get("text_encoder_3") or [None])[0] is not None

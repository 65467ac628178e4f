"""Qwen-Image and Qwen-Image-2512: a transformer trained with flow matching (Wu et al. 2025). Qwen2.5-VL encodes the
prompt inside a fixed instruction. It has 8 billion parameters; it is frozen, encodes all prompts at once, and is freed
before the transformer's weights are loaded. The trigger is a plain word.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

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
from families.parts.chat_prompts import chosen_states
from families.parts.frozen_text import FrozenText, ReadPrompts, aside, reading_device
from families.parts.latents import posterior_shape, sample_posterior
from families.parts.patches import latents_of, patches_of

PATCH = 2
PARTS = {
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKLQwenImage",
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "QwenImageTransformer2DModel",
}
LONGEST_PROMPT = 1024
"""Number of tokens that the pipeline reads, including the end of the template."""
TEXT_MULTIPLE = 64
"""Text is padded to a multiple of this while training, so that few shapes are compiled."""
IDLE = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
"""Layers of the last block whose output is unused: the text stream ends there."""


class QwenImage:
    """A Qwen-Image base, frozen. Implements `families.family.ModelFamily` and `ReadsByFrozenModel`."""

    name: ClassVar[str] = "qwen_image"
    pipeline_class_name: ClassVar[str] = "QwenImagePipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": (
            *("to_q", "to_k", "to_v", "to_out.0"),
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        ),
        "feed-forward": ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
        "convolutions": (),
    }
    layer_naming: ClassVar[LayerNaming] = "peft"
    denoiser_kind: ClassVar[DenoiserKind] = "transformer"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1.0)
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults(
        num_tokens=0, fewest_tokens=0, guidance_scale=4.0, num_inference_steps=50
    )  # guidance and steps of diffusers' pipeline and of the model card; the rate of ai-toolkit
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    training_notes: ClassVar[tuple[str, ...]] = ()
    architecture: ClassVar[str] = "Qwen-Image"
    base_model_version: ClassVar[str] = "qwen_image"
    text_encoders: list[Any]
    tokenizers: list[Any]

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        self.denoiser: Any = parts.skeleton("transformer", QwenImageTransformer2DModel)
        self.vae: Any = parts.load("vae", AutoencoderKLQwenImage)
        self.text_encoders, self.tokenizers = [], []
        self.encoder_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        self._pipeline = QwenImagePipeline(
            scheduler=parts.load("scheduler", FlowMatchEulerDiscreteScheduler),
            vae=self.vae,
            text_encoder=None,
            tokenizer=parts.load("tokenizer", Qwen2Tokenizer),
            transformer=self.denoiser,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self.noise_process: NoiseProcess = FlowMatching.from_scheduler(self._pipeline.scheduler, PATCH)
        self._text = FrozenText(self._load_text_encoder, lambda: aside(self.denoiser))

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "QwenImage":
        """Locate the components, and load the small ones. Raises BaseModelError if one is missing or does not match."""
        refuse_diffusion_options(source, options)
        parts = PipelineParts.of(source, options, PARTS)
        transformer = parts.config("transformer", QwenImageTransformer2DModel)
        parts.require_equal(
            ("the transformer's in_channels", transformer["in_channels"]),
            ("the VAE's z_dim times the patch area", parts.config("vae", AutoencoderKLQwenImage)["z_dim"] * PATCH**2),
        )
        parts.require_equal(
            ("the transformer's joint_attention_dim", transformer["joint_attention_dim"]),
            ("the text encoder's hidden_size", parts.config("text_encoder", AutoConfig)["text_config"]["hidden_size"]),
        )
        return cls(parts)

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """Layers of the last block whose output is unused: of its text stream only keys and values are read."""
        return tuple(f"transformer_blocks.{self.denoiser.config.num_layers - 1}.{layer}" for layer in IDLE)

    @property
    def native_resolution(self) -> int:
        """The pipeline's default size: 1024."""
        return int(self._pipeline.default_sample_size * self._pipeline.vae_scale_factor)

    @property
    def size_multiple(self) -> int:
        """The VAE's reduction times the patch: 16."""
        return int(self._pipeline.vae_scale_factor * PATCH)

    @property
    def largest_side(self) -> int | None:
        return None

    def to(self, device: torch.device) -> "QwenImage":
        """Loads the transformer's weights when it is first called, directly to `device`."""
        if next(self.denoiser.parameters()).is_meta:
            self.denoiser = self._parts.denoiser("transformer", QwenImageTransformer2DModel, dict, device)
            self._pipeline.register_modules(transformer=self.denoiser)
        self._pipeline.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Moments (B, 2C, h, w): its VAE is for videos, and an image is one frame."""
        frames = pixels.to(self.vae.dtype).unsqueeze(2)
        return self.vae.encode(frames).latent_dist.parameters.squeeze(2).float()

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return posterior_shape(cached)

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        mean, scale = self._statistics(cached)
        return (sample_posterior(cached, noise) - mean) * scale

    def decode(self, latents: Tensor) -> Tensor:
        mean, scale = self._statistics(latents)
        frames = (latents / scale + mean).to(self.vae.dtype).unsqueeze(2)
        return self.vae.decode(frames).sample.squeeze(2).float()

    def offload_picture_parts(self) -> None:
        self.vae.to("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """States of the prompt and the end of the template (B, L, D), padded to the longest, with a mask."""
        return self._text.features(prompts, self.device)

    def keep_prompts(self, folder: Path) -> None:
        self._text.keep_in(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        self._text.read_ahead(prompts)

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """Including the tokens of the template that are not dropped."""
        text = self._pipeline.prompt_template_encode.format(prompt)
        ids = self._pipeline.tokenizer(text, verbose=False).input_ids
        return len(ids) - self._pipeline.prompt_template_encode_start_idx, LONGEST_PROMPT

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
        text = prompts.padded(-(-prompts.length // TEXT_MULTIPLE) * TEXT_MULTIPLE)
        prediction = self.denoiser(
            hidden_states=patches_of(noised.to(text.prompt_embeds.dtype), PATCH),
            timestep=timesteps / self.noise_process.num_timesteps,
            encoder_hidden_states=text.prompt_embeds,
            encoder_hidden_states_mask=text.mask,
            img_shapes=[[(1, height // PATCH, width // PATCH)]] * count,
        ).sample
        return latents_of(prediction, height, width, PATCH).float()

    def pipeline(self) -> QwenImagePipeline:
        """The pipeline over these modules, without its text encoder."""
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        """Prompts and negative prompts, each padded to its longest; without padding the pipeline has no mask."""
        inputs: dict[str, Any] = {"max_sequence_length": LONGEST_PROMPT}
        for side, prompts in (("", wanted), ("negative_", unwanted)):
            longest = int(prompts.mask.sum(dim=1).max())
            inputs[f"{side}prompt_embeds"] = prompts.prompt_embeds[:, :longest]
            inputs[f"{side}prompt_embeds_mask"] = prompts.mask[:, :longest]
        return inputs

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and 1 / standard deviation of each latent channel (1, C, 1, 1)."""
        values = self.vae.config.latents_mean, self.vae.config.latents_std
        mean, deviation = (like.new_tensor(each).view(1, -1, 1, 1) for each in values)
        return mean, 1.0 / deviation

    def _load_text_encoder(self) -> ReadPrompts:
        encoder = self._parts.load("text_encoder", Qwen2_5_VLForConditionalGeneration).to(reading_device())
        pipeline = self._pipeline
        dropped = pipeline.prompt_template_encode_start_idx

        def read(prompts: Sequence[str]) -> PromptFeatures:
            texts = [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
            batch = pipeline.tokenizer(
                texts, padding=True, truncation=True, max_length=LONGEST_PROMPT + dropped, return_tensors="pt"
            )
            states = chosen_states(encoder, batch.input_ids, batch.attention_mask, [-1])
            counts = batch.attention_mask.bool()
            return PromptFeatures.of_lengths([row[mask][dropped:] for row, mask in zip(states, counts, strict=True)])

        return read

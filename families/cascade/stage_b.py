"""Stable Cascade's Stage B, trained to reconstruct images: from latents of an EfficientNet to those of Stage A."""

from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, CLIPTextModelWithProjection, CLIPTokenizer

from families.cascade.base import FP16_OVERFLOW, LIMITED_LICENCE, nameless_norms, refuse_noise_options
from families.cascade.decoder_parts import load_encoder
from families.cascade.decoding import (
    DECODER_GUIDANCE,
    DECODER_STEPS,
    PIXELS_SCALE,
    StageBPipeline,
    decoded,
    encoded,
    pixels_per_code,
)
from families.cascade.scheduler import STAGE_B_SHIFT, ShiftedCosineScheduler
from families.cascade.stage import CascadeUNet
from families.cascade.tensor_names import stage_tensors
from families.cascade.text import read_prompts
from families.conditioning import refuse_conditioning
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
from families.loading.opening import LoadingOptions
from families.loading.pipeline_parts import PipelineParts
from families.loading.sources import BaseModelSource
from families.noise.noise_process import NoiseProcess
from families.noise.pyramid_cosine import PyramidCosineProcess
from families.parts.clip_prompts import pool_at_end_of_text
from families.parts.frozen_text import FrozenText, ReadPrompts, aside, reading_device
from families.parts.latents import freeze

PARTS = {
    "decoder": "StableCascadeUNet",
    "scheduler": "DDPMWuerstchenScheduler",
    "text_encoder": "CLIPTextModelWithProjection",
    "vqgan": "PaellaVQModel",
}
NATIVE_RESOLUTION = 1024
EFFICIENT_NET = "image_latents"
"""The supported part of the conditioning: latents of the image's EfficientNet, as Stage C generates them."""


class StageB:
    """A Stage B of Stable Cascade with Stage A, frozen. Implements `families.family.ModelFamily`,
    `ReadsByFrozenModel`, `HasLimitedLicence` and `Restoring`.

    It only reads the pooled vector of the text, so no new words are trained.
    """

    name: ClassVar[str] = "cascade-b"
    pipeline_class_name: ClassVar[str] = "StableCascadeDecoderPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "feed-forward": ("channelwise.0", "channelwise.4", "kv_mapper.1"),
        "convolutions": ("embedding.1", "clf.1", "effnet_mapper.0", "effnet_mapper.2"),
    }
    layer_naming: ClassVar[LayerNaming] = "kohya_decoder"
    denoiser_kind: ClassVar[DenoiserKind] = "unet"
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1.0)
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults(
        guidance_scale=DECODER_GUIDANCE, num_inference_steps=DECODER_STEPS, num_tokens=0, fewest_tokens=0,
        loss_weighting="p2",
    )  # fmt: skip
    training_notes: ClassVar[tuple[str, ...]] = ()
    limited_licence: ClassVar[str] = LIMITED_LICENCE
    fp16_overflow: ClassVar[str] = FP16_OVERFLOW
    architecture: ClassVar[str] = "stable-cascade-v1-decoder"
    base_model_version: ClassVar[str] = "stable_cascade_b"
    largest_side: ClassVar[int | None] = None
    condition_sizes: ClassVar[tuple[float, float]] = (0.5, 1.0)
    condition_dropout: ClassVar[float] = 0.1

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        self.denoiser: Any = parts.skeleton("decoder", CascadeUNet)
        self.vae: Any = parts.load("vqgan", PaellaVQModel)
        self.text_encoders: list[Any] = []
        self.tokenizers: list[Any] = []
        self.encoder_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        self._tokenizer = parts.load("tokenizer", CLIPTokenizer)
        scheduler = parts.load("scheduler", ShiftedCosineScheduler)
        self._cosine = PyramidCosineProcess.from_scheduler(scheduler)
        self.noise_process: NoiseProcess = self._cosine
        self._pipeline = StageBPipeline(
            decoder=self.denoiser,
            scheduler=ShiftedCosineScheduler.from_config(scheduler.config, logsnr_shift=STAGE_B_SHIFT),
            vqgan=self.vae,
            encoder=load_encoder(parts),
        )
        freeze(self.denoiser, self.vae, self._pipeline.encoder)
        self._text = FrozenText(self._load_text_encoder, lambda: aside(self.denoiser))

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "StageB":
        """Locate the components, and load the small ones. Raises BaseModelError if one is missing or does not match."""
        refuse_noise_options(source, options)
        parts = PipelineParts.of(source, options, PARTS)
        decoder, text = parts.config("decoder", CascadeUNet), parts.config("text_encoder", AutoConfig)
        if not decoder["effnet_in_channels"]:
            raise BaseModelError(
                f"base_model: the decoder of {source.name} has no input for latents (effnet_in_channels)"
            )
        parts.require_equal(
            ("Stage B's clip_text_pooled_in_channels", decoder["clip_text_pooled_in_channels"]),
            ("the text encoder's projection_dim", text["projection_dim"]),
        )
        made = cls(parts)
        for one, other in (
            (("Stage B's in_channels", decoder["in_channels"]), ("Stage A's", made.vae.config.latent_channels)),
            (("Stage B's effnet_in_channels", decoder["effnet_in_channels"]),
             ("the encoder's latent_channels", made.encoder.config.latent_channels)),
        ):  # fmt: skip
            parts.require_equal(one, other)
        return made

    @property
    def encoder(self) -> Any:
        """The EfficientNet."""
        return self._pipeline.encoder

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """The layers for pixels, which are always zeros, and norms whose parameters have no name in LoRA files."""
        return ("pixels_mapper.0", *nameless_norms(self.denoiser))

    @property
    def native_resolution(self) -> int:
        return NATIVE_RESOLUTION // 32 * int(self.encoder.reduction)

    @property
    def size_multiple(self) -> int:
        """128: as of Stage C, and every level of Stage B halves the latents' sides evenly."""
        config = self.denoiser.config
        levels = config.patch_size * 2 ** (len(config.block_out_channels) - 1)
        return lcm(4 * self.encoder.reduction, pixels_per_code(self.vae) * levels)

    def to(self, device: torch.device) -> "StageB":
        """Loads Stage B's weights when it is first called, straight to `device`."""
        if next(self.denoiser.parameters()).is_meta:
            self.denoiser = self._parts.denoiser("decoder", CascadeUNet, stage_tensors, device)
            self._pipeline.register_modules(decoder=self.denoiser)
        self._pipeline.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → the latents of Stage A, (B, 4, H/4, W/4) in fp32. Deterministic."""
        return encoded(self.vae, (pixels + 1) / 2)

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return cached

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return cached

    def decode(self, latents: Tensor) -> Tensor:
        """By Stage A."""
        return decoded(self.vae, latents) * 2 - 1

    def offload_picture_parts(self) -> None:
        """Does nothing: the EfficientNet is used in every step, and Stage A is small."""

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """CLIP-G's projections, as one position each: (B, 1, P)."""
        return self._text.features(prompts, self.device)

    def keep_prompts(self, folder: Path) -> None:
        self._text.keep_in(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        self._text.read_ahead(prompts)

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        return len(self._tokenizer(prompt).input_ids), int(self._tokenizer.model_max_length)

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """Stage B's ε (B, 4, h, w) in fp32. Sizes are ignored. Without a condition the input is zeros."""
        refuse_conditioning(conditioning, self.name, (EFFICIENT_NET,))
        coarse = None if conditioning is None else conditioning.image_latents
        pooled = prompts.prompt_embeds
        if coarse is None:
            coarse = pooled.new_zeros(len(noised), self.denoiser.config.effnet_in_channels, 1, 1)
        sides = [side // self.denoiser.config.patch_size for side in noised.shape[-2:]]
        # as the network itself does
        coarse = functional.interpolate(coarse.float(), sides, mode="bilinear", align_corners=True)
        return self.denoiser(
            noised.to(pooled.dtype),
            timestep_ratio=self._cosine.shown(timesteps),
            clip_text_pooled=pooled,
            effnet=coarse.to(pooled.dtype),
        ).sample.float()

    @torch.no_grad()
    def training_condition(self, pictures: Tensor, size: float) -> Conditioning:
        """Reduced as in the original: without smoothing, to sides that are whole multiples of a latent."""
        step = self.encoder.reduction
        sides = [max(step, int(side * size) // step * step) for side in pictures.shape[-2:]]
        return Conditioning(image_latents=self.encoder(functional.interpolate(_pixels(pictures), sides)).float())

    def condition(self, pictures: Tensor) -> Conditioning:
        return Conditioning(image_latents=self._stage_c_latents(pictures))

    def restored(
        self,
        pictures: Tensor,
        prompts: PromptFeatures,
        generator: Sequence[torch.Generator],
        num_inference_steps: int,
        guidance_scale: float,
    ) -> Tensor:
        nothing = self.encode_prompts([""] * len(pictures))
        return self._pipeline(
            self._stage_c_latents(pictures),
            prompts.prompt_embeds,
            nothing.prompt_embeds,
            generator,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )

    def pipeline(self) -> StageBPipeline:
        """Decodes latents with Stages B and A; cannot generate from a prompt alone."""
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        return {"pooled": wanted.prompt_embeds, "negative_pooled": unwanted.prompt_embeds}

    @torch.no_grad()
    def _stage_c_latents(self, pictures: Tensor) -> Tensor:
        """The latents as in Stage C's training: of the images at three quarters of their sides."""
        sides = [round(side / PIXELS_SCALE) for side in pictures.shape[-2:]]
        smaller = functional.interpolate(_pixels(pictures), sides, mode="bilinear", antialias=True)
        return self.encoder(smaller).float()

    def _load_text_encoder(self) -> ReadPrompts:
        encoder = self._parts.load("text_encoder", CLIPTextModelWithProjection).to(reading_device())
        pool_at_end_of_text(self._tokenizer, encoder)

        def read(prompts: Sequence[str]) -> PromptFeatures:
            return PromptFeatures(read_prompts(self._tokenizer, encoder, prompts)[1][:, None])

        return read


def _pixels(pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → fp32 in [0, 1]."""
    return pictures.float() / 255

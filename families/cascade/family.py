"""Stable Cascade, Stage C: text to latents of an EfficientNet, which are 42 times smaller than the image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

from families.cascade.base import FP16_OVERFLOW, LIMITED_LICENCE, nameless_norms, refuse_noise_options
from families.cascade.controlnet import CascadeControlNet
from families.cascade.decoder_parts import DecoderParts
from families.cascade.decoding import PIXELS_SCALE
from families.cascade.picture_embedding import picture_embeds
from families.cascade.pipeline import StableCascadePipeline
from families.cascade.scheduler import STAGE_B_SHIFT, STAGE_C_SHIFT, ShiftedCosineScheduler
from families.cascade.stage import CascadeUNet
from families.cascade.tensor_names import stage_tensors
from families.cascade.text import read_prompts
from families.conditioning import refuse_conditioning
from families.controls.control import USUAL_FORM, ControlForm, usual_blocks
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
from families.noise.cosine_process import CosineProcess
from families.noise.noise_process import NoiseProcess
from families.parts.clip_prompts import pool_at_end_of_text
from families.parts.latents import freeze

PARTS = {
    "prior": "StableCascadeUNet",
    "scheduler": "DDPMWuerstchenScheduler",
    "text_encoder": "CLIPTextModelWithProjection",
}
NATIVE_LATENTS = 24
"""The native resolution of Stage C as a side in latents: 1024 pixels."""


class Cascade:
    """A Stable Cascade base, frozen. Implements `families.family.ModelFamily`, `HasLimitedLicence`,
    `HasFurtherStages`, `families.controls.control.Controllable` and `families.conditioning.EmbedsPictures`.

    Sizes in pixels are those of the output image: the encoder reads it at three quarters of each side.
    """

    name: ClassVar[str] = "cascade"
    pipeline_class_name: ClassVar[str] = "StableCascadePriorPipeline"
    adapter_modules: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "feed-forward": ("channelwise.0", "channelwise.4", "kv_mapper.1"),
        "convolutions": ("embedding.1", "down_downscalers.*.blocks.0", "up_upscalers.*.blocks.1", "clf.1"),
    }
    layer_naming: ClassVar[LayerNaming] = "kohya_prior"
    denoiser_kind: ClassVar[DenoiserKind] = "unet"
    guidance_kind: ClassVar[GuidanceKind] = "classifier-free"
    b_lora_blocks: ClassVar[Mapping[str, str]] = {}
    timestep_ends: ClassVar[tuple[float, float]] = (0.0, 1.0)
    defaults: ClassVar[FamilyDefaults] = FamilyDefaults(guidance_scale=4.0, num_inference_steps=20, loss_weighting="p2")
    training_notes: ClassVar[tuple[str, ...]] = ()
    limited_licence: ClassVar[str] = LIMITED_LICENCE
    fp16_overflow: ClassVar[str] = FP16_OVERFLOW
    architecture: ClassVar[str] = "stable-cascade-v1-prior"
    base_model_version: ClassVar[str] = "stable_cascade_c"
    largest_side: ClassVar[int | None] = None

    def __init__(self, parts: PipelineParts, others: DecoderParts) -> None:
        self._parts = parts
        self.denoiser: Any = parts.skeleton("prior", CascadeUNet)
        self.vae: Any = others.encoder
        self.text_encoders: list[Any] = [parts.load("text_encoder", CLIPTextModelWithProjection)]
        self.tokenizers: list[Any] = [parts.load("tokenizer", CLIPTokenizer)]
        self.encoder_names: tuple[str, ...] = ("clip_g",)
        self.device = torch.device("cpu")
        self.picture_encoder: Any = None
        scheduler = parts.load("scheduler", ShiftedCosineScheduler)
        self._cosine = CosineProcess.from_scheduler(scheduler)
        self.noise_process: NoiseProcess = self._cosine
        self._pipeline = StableCascadePipeline(
            tokenizer=self.tokenizers[0],
            text_encoder=self.text_encoders[0],
            prior=self.denoiser,
            scheduler=ShiftedCosineScheduler.from_config(scheduler.config, logsnr_shift=STAGE_C_SHIFT),
            encoder=others.encoder,
            decoder=others.decoder,
            decoder_scheduler=ShiftedCosineScheduler.from_config(scheduler.config, logsnr_shift=STAGE_B_SHIFT),
            vqgan=others.vqgan,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        freeze(self.denoiser, others.encoder, others.decoder, others.vqgan, *self.text_encoders)
        pool_at_end_of_text(self.tokenizers[0], self.text_encoders[0])

    @classmethod
    def load(cls, source: BaseModelSource, options: LoadingOptions) -> "Cascade":
        """Locate the components, and load all but Stage C. Raises BaseModelError if one is missing or does not
        match."""
        refuse_noise_options(source, options)
        parts = PipelineParts.of(source, options, PARTS)
        prior, text = parts.config("prior", CascadeUNet), parts.config("text_encoder", AutoConfig)
        parts.require_equal(
            ("Stage C's clip_text_in_channels", prior["clip_text_in_channels"]),
            ("the text encoder's hidden_size", text["hidden_size"]),
        )
        others = DecoderParts.of(parts)
        for name, channels in (
            ("the encoder's latent_channels", others.encoder.config.latent_channels),
            ("Stage B's effnet_in_channels", others.decoder.config.effnet_in_channels),
        ):
            parts.require_equal(("Stage C's in_channels", prior["in_channels"]), (name, channels))
        return cls(parts, others)

    @property
    def further_stages(self) -> Mapping[str, Any]:
        """Stage B, by its folder's name: files of its training are applied to it."""
        return {"decoder": self._pipeline.decoder}

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """The mapper of image embeddings where all are zeros, and norms whose parameters no file can name."""
        mapper = ("clip_img_mapper",) if self.picture_encoder is None else ()
        return (*mapper, *nameless_norms(self.denoiser))

    @property
    def native_resolution(self) -> int:
        return round(NATIVE_LATENTS * PIXELS_SCALE * self.vae.reduction)

    @property
    def size_multiple(self) -> int:
        """128: three quarters of it are a whole number of latents, and Stages B and A return images of exactly this
        size."""
        return int(4 * self.vae.reduction)

    def to(self, device: torch.device) -> "Cascade":
        """Loads Stage C's weights when it is first called, straight to `device`."""
        if next(self.denoiser.parameters()).is_meta:
            self.denoiser = self._parts.denoiser("prior", CascadeUNet, stage_tensors, device)
            self._pipeline.register_modules(prior=self.denoiser)
        self._pipeline.to(device)
        if self.picture_encoder is not None:
            self.picture_encoder.to(device)
        self.device = device
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → the latents (B, 16, h, w) in fp32. Deterministic."""
        size = [max(1, round(side / PIXELS_SCALE)) for side in pixels.shape[-2:]]
        smaller = functional.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
        return self.vae((smaller + 1) / 2).float()

    def latent_shape(self, cached: torch.Size) -> torch.Size:
        return cached

    def latents(self, cached: Tensor, noise: Tensor) -> Tensor:
        return cached

    def decode(self, latents: Tensor) -> Tensor:
        """By Stages B and A, with an empty prompt and fixed noise."""
        pooled = self._pooled(self.encode_prompts([""] * len(latents)))
        generators = [torch.Generator().manual_seed(0) for _ in latents]
        return self._pipeline.stage_b(latents, pooled, pooled, generators) * 2 - 1

    def offload_picture_parts(self) -> None:
        for part in (self.vae, self._pipeline.decoder, self._pipeline.vqgan):
            part.to("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """CLIP-G's states (B, 77, D) and its projection (B, P), as `read_prompts` gives them."""
        return PromptFeatures(*read_prompts(self.tokenizers[0], self.text_encoders[0], prompts))

    def denoise(
        self,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """Stage C's ε (B, C, h, w) in fp32. Sizes are ignored. An image embedding of zeros means no image."""
        refuse_conditioning(conditioning, self.name, known=("residuals", "image_embeds"))
        embeds = prompts.prompt_embeds
        given, image = conditioning or Conditioning(), None if conditioning is None else conditioning.image_embeds
        if image is None:
            image = embeds.new_zeros(len(embeds), self.denoiser.config.clip_image_in_channels)
        added = dict(zip(given.residual_blocks, given.residuals, strict=True))
        return self.denoiser(
            noised.to(embeds.dtype),
            timestep_ratio=self._cosine.shown(timesteps),
            clip_text_pooled=self._pooled(prompts),
            clip_text=embeds,
            clip_img=image.to(embeds)[:, None],
            **({"residuals": added} if added else {}),
        ).sample.float()

    def load_picture_encoder(self) -> None:
        """CLIP-L's image encoder in the folder of Stage C. Raises BaseModelError if it is missing or does not fit."""
        self._parts.require({"image_encoder": CLIPVisionModelWithProjection.__name__})
        encoder = self._parts.load("image_encoder", CLIPVisionModelWithProjection)
        self._parts.require_equal(
            ("Stage C's clip_image_in_channels", self.denoiser.config.clip_image_in_channels),
            ("the image encoder's projection_dim", encoder.config.projection_dim),
        )
        self.picture_encoder = encoder.to(self.device)

    @torch.no_grad()
    def picture_embeds(self, pictures: Tensor) -> Tensor:
        return picture_embeds(self.picture_encoder, pictures)

    @property
    def steered_blocks(self) -> int:
        """Stage C's residual blocks: 64, or 32 in the smaller one."""
        return len(self.denoiser.residual_blocks)

    def new_controlnet(self, form: ControlForm = USUAL_FORM) -> CascadeControlNet:
        form = replace(form, blocks=form.blocks or usual_blocks(self.steered_blocks))
        blocks = self.denoiser.residual_blocks
        widths = [blocks[number].depthwise.out_channels for number in form.blocks]
        return CascadeControlNet.beside(self.vae, form, widths).to(self.device)

    def control_residuals(
        self,
        controlnet: Any,
        pictures: Tensor,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptFeatures,
        sizes: Sequence[SizeConditioning],
    ) -> Conditioning:
        """They depend only on the image or its faces, not on noise, time and prompts."""
        condition = controlnet.condition(pictures, self.vae, (noised.shape[-2], noised.shape[-1]))
        return Conditioning(controlnet(condition), residual_blocks=tuple(controlnet.config.blocks))

    def control_pipeline(self, controlnet: Any) -> StableCascadePipeline:
        return StableCascadePipeline(**self.pipeline().components, controlnet=controlnet)

    def pipeline(self) -> StableCascadePipeline:
        """The pipeline over these modules, with this object's tokenizer."""
        self._pipeline.tokenizer = self.tokenizers[0]
        return self._pipeline

    def pipeline_inputs(self, wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
        return {
            "prompt_embeds": wanted.prompt_embeds,
            "prompt_embeds_pooled": self._pooled(wanted),
            "negative_prompt_embeds": unwanted.prompt_embeds,
            "negative_prompt_embeds_pooled": self._pooled(unwanted),
        }

    @staticmethod
    def _pooled(prompts: PromptFeatures) -> Tensor:
        """(B, 1, P): the stages read a sequence of pooled vectors."""
        assert prompts.pooled_prompt_embeds is not None
        return prompts.pooled_prompt_embeds[:, None]

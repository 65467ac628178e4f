"""Stable Diffusion XL and everything in its layout, the embedded mini-sdxl included (Podell et al. 2023)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from torch import Tensor

from families.errors import BaseModelError
from families.family import PromptFeatures, SizeConditioning
from families.noise_process import DiffusionProcess
from families.sources import BaseModelSource

diffusers_logging.disable_progress_bar()

SINGLE_FILE_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "conditioner.embedders.1.")


class SDXL:
    """A loaded base in SDXL's layout, frozen. Implements `families.family.ModelFamily`."""

    name: ClassVar[str] = "sdxl"
    architecture: ClassVar[str] = "stable-diffusion-xl-v1-base"
    base_model_version: ClassVar[str] = "sdxl_base_v1-0"
    pipeline_class_name: ClassVar[str] = "StableDiffusionXLPipeline"
    encoder_names: ClassVar[tuple[str, ...]] = ("clip_l", "clip_g")

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        self._pipeline = pipeline
        self.denoiser: Any = pipeline.unet
        self.vae: Any = pipeline.vae
        self.text_encoders: list[Any] = [pipeline.text_encoder, pipeline.text_encoder_2]
        self.tokenizers: list[Any] = [pipeline.tokenizer, pipeline.tokenizer_2]
        self.noise_process = DiffusionProcess.from_scheduler(pipeline.scheduler)
        for module in (self.denoiser, self.vae, *self.text_encoders):
            module.requires_grad_(False).eval()
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            _pool_at_end_of_text(tokenizer, encoder)

    @classmethod
    def load(cls, source: BaseModelSource, dtype: torch.dtype) -> "SDXL":
        """Open the base in `dtype`, on the CPU. Only safetensors are read.

        Raises BaseModelError when it cannot be opened or is no SDXL checkpoint.
        """
        if source.kind == "file":
            _require_sdxl_checkpoint(Path(source.location))
        try:
            if source.kind == "file":
                pipeline = StableDiffusionXLPipeline.from_single_file(source.location, torch_dtype=dtype)
            else:
                pipeline = StableDiffusionXLPipeline.from_pretrained(
                    source.location, dtype=dtype, use_safetensors=True, add_watermarker=False
                )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise BaseModelError(_loading_failed(source, error)) from error
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline)

    @property
    def native_resolution(self) -> int:
        return int(self.denoiser.config.sample_size * self._pipeline.vae_scale_factor)

    @property
    def size_multiple(self) -> int:
        """The VAE's reduction times the UNet's: 32 for SDXL."""
        return int(self._pipeline.vae_scale_factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1))

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device) -> "SDXL":
        self._pipeline.to(device)
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → (B, 2C, h, w). The VAE of SDXL overflows in fp16, so it runs in bf16 or fp32."""
        return self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.parameters.float()

    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """A sample of N(mean, exp(log-variance)), scaled to about unit variance: (B, C, h, w)."""
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        return (mean + deviation * noise) * self.vae.config.scaling_factor

    def encode_prompts(self, prompts: Sequence[str]) -> PromptFeatures:
        """The penultimate hidden states of both encoders side by side (B, 77, D₁ + D₂), and the second's projection.

        An empty prompt is all zeros where the base was trained so (`force_zeros_for_empty_prompt`).
        """
        hidden: list[Tensor] = []
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            batch = tokenizer(
                list(prompts),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            output = encoder(batch.input_ids.to(encoder.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        prompt_embeds, pooled = torch.cat(hidden, dim=-1), output.text_embeds
        if self._pipeline.config.force_zeros_for_empty_prompt:
            kept = torch.tensor([float(bool(prompt)) for prompt in prompts], device=pooled.device, dtype=pooled.dtype)
            prompt_embeds, pooled = prompt_embeds * kept.view(-1, 1, 1), pooled * kept.view(-1, 1)
        return PromptFeatures(prompt_embeds, pooled)

    def denoise(
        self, noised: Tensor, timesteps: Tensor, prompts: PromptFeatures, sizes: Sequence[SizeConditioning]
    ) -> Tensor:
        """The UNet's prediction (B, C, h, w) in fp32."""
        time_ids = torch.tensor([[*size.original, *size.crop, *size.target] for size in sizes], device=noised.device)
        dtype = prompts.prompt_embeds.dtype
        return self.denoiser(
            noised.to(dtype),
            timesteps,
            encoder_hidden_states=prompts.prompt_embeds,
            added_cond_kwargs={"text_embeds": prompts.pooled_prompt_embeds, "time_ids": time_ids.to(dtype)},
        ).sample.float()

    def pipeline(self) -> StableDiffusionXLPipeline:
        """The pipeline over these modules, with this object's tokenizers."""
        self._pipeline.tokenizer, self._pipeline.tokenizer_2 = self.tokenizers
        return self._pipeline


def _pool_at_end_of_text(tokenizer: Any, encoder: Any) -> None:
    """Make the encoder pool at the end-of-text token.

    Old CLIP configurations say eos_token_id = 2, on which transformers pools at the highest token id: right until
    tokens are added, whose ids are higher still.
    """
    getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id


def _require_sdxl_checkpoint(path: Path) -> None:
    """Raises BaseModelError unless the file's tensors are named as in SDXL's single-file checkpoints."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise BaseModelError(f"base_model: {path} is not a readable .safetensors file ({error})") from error
    missing = [prefix for prefix in SINGLE_FILE_PREFIXES if not any(name.startswith(prefix) for name in names)]
    if missing:
        raise BaseModelError(
            f"base_model: {path} is no SDXL checkpoint: it has no tensors named {missing[0]}…, but "
            f"{names[0] if names else 'none at all'}. Is it a LoRA, or another family's base?"
        )


def _loading_failed(source: BaseModelSource, error: Exception) -> str:
    remedy = {
        "hub": "Check the spelling, the network, and for gated models the HF_TOKEN in the environment.",
        "folder": "Check that it is a complete SDXL pipeline in diffusers' layout, with safetensors weights.",
        "file": "Its configuration (not its weights) comes from the hub: check the network.",
    }[source.kind]
    reason = " ".join(str(error).split())
    return f"base_model: cannot load {source.name!r}: {type(error).__name__}: {reason} {remedy}"

"""Samples pictures through all three stages: C draws the layout from the text, B adds details, A decodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

DECODER_STEPS, DECODER_GUIDANCE = 10, 1.1
"""Of Stage B, as the original samples."""
PIXELS_SCALE = 4 / 3
"""A picture's side by that of what the encoder reads: 1024 pixels are encoded as 768."""

Conditions = Mapping[str, Tensor]
Predict = Callable[[Tensor, Tensor], Tensor]
"""From noised latents (B, C, h, w) and times (B,) in [0, 1] to ε (B, C, h, w), fp32."""


class StableCascadePipeline(DiffusionPipeline):
    """All stages in one. diffusers' own pipelines round the time to the weights' dtype; otherwise this is what its
    StableCascadeCombinedPipeline does."""

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        prior: Any,
        scheduler: Any,
        encoder: Any,
        decoder: Any,
        decoder_scheduler: Any,
        vqgan: Any,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            prior=prior,
            scheduler=scheduler,
            encoder=encoder,
            decoder=decoder,
            decoder_scheduler=decoder_scheduler,
            vqgan=vqgan,
        )
        self.num_timesteps = 0

    @torch.no_grad()
    def __call__(
        self,
        prompt_embeds: Tensor,
        prompt_embeds_pooled: Tensor,
        negative_prompt_embeds: Tensor,
        negative_prompt_embeds_pooled: Tensor,
        width: int,
        height: int,
        generator: Sequence[torch.Generator],
        num_inference_steps: int = 20,
        guidance_scale: float = 4.0,
        guidance_rescale: float = 0.0,
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> ImagePipelineOutput:
        """Draw B pictures. `prompt_embeds`: (B, 77, D), `prompt_embeds_pooled`: (B, 1, P). Guidance and
        `num_inference_steps` are those of Stage C; Stage B has its own (`DECODER_STEPS`, `DECODER_GUIDANCE`).
        """
        self.num_timesteps = num_inference_steps + DECODER_STEPS
        step = _counted(self, callback_on_step_end)
        wanted = self._prior_conditions(prompt_embeds, prompt_embeds_pooled)
        unwanted = self._prior_conditions(negative_prompt_embeds, negative_prompt_embeds_pooled)
        reduction = PIXELS_SCALE * self.encoder.reduction
        shape = (len(prompt_embeds), self.prior.config.in_channels, round(height / reduction), round(width / reduction))
        latents = _drawn(
            _guided(self.prior, wanted, unwanted, guidance_scale, guidance_rescale),
            self.scheduler, self._noise(shape, generator), num_inference_steps, generator, step,
        )  # fmt: skip
        pixels = self.decoded(latents, prompt_embeds_pooled, negative_prompt_embeds_pooled, generator, step)
        return ImagePipelineOutput(images=self.numpy_to_pil(pixels.permute(0, 2, 3, 1).cpu().numpy()))

    @torch.no_grad()
    def decoded(
        self,
        latents: Tensor,
        pooled: Tensor,
        negative_pooled: Tensor,
        generator: Sequence[torch.Generator],
        step: Callable[[Tensor], None] = lambda time: None,
    ) -> Tensor:
        """Stages B and A: latents (B, C, h, w) of Stage C → pixels (B, 3, H, W) in [0, 1], fp32."""
        wanted = {"clip_text_pooled": pooled, "effnet": latents.to(pooled.dtype)}
        unwanted = {"clip_text_pooled": negative_pooled, "effnet": torch.zeros_like(wanted["effnet"])}
        reduction = PIXELS_SCALE * self.encoder.reduction / self._vqgan_reduction
        shape = (
            len(latents), self.decoder.config.in_channels, *(round(side * reduction) for side in latents.shape[-2:])
        )  # fmt: skip
        codes = _drawn(
            _guided(self.decoder, wanted, unwanted, DECODER_GUIDANCE),
            self.decoder_scheduler, self._noise(shape, generator), DECODER_STEPS, generator, step,
        )  # fmt: skip
        scaled = self.vqgan.config.scale_factor * codes
        return self.vqgan.decode(scaled.to(self.vqgan.dtype)).sample.clamp(0, 1).float()

    @property
    def _vqgan_reduction(self) -> int:
        """Pixels per latent of Stage A, along one side: 4."""
        config = self.vqgan.config
        return int(config.up_down_scale_factor * 2 ** (config.levels - 1))

    def _prior_conditions(self, embeds: Tensor, pooled: Tensor) -> Conditions:
        nothing = embeds.new_zeros(len(embeds), 1, self.prior.config.clip_image_in_channels)
        return {"clip_text": embeds, "clip_text_pooled": pooled, "clip_img": nothing}

    def _noise(self, shape: tuple[int, ...], generator: Sequence[torch.Generator]) -> Tensor:
        return randn_tensor(shape, generator=list(generator), device=self.device, dtype=torch.float32)


def _guided(stage: Any, wanted: Conditions, unwanted: Conditions, scale: float, rescale: float = 0.0) -> Predict:
    """A stage's prediction with classifier-free guidance (Ho & Salimans 2022); without where `scale` is at most 1.

    `rescale`: φ of Lin et al. 2023, §3.4.
    """

    def predict(latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        dtype = conditions["clip_text_pooled"].dtype
        return stage(latents.to(dtype), timestep_ratio=times, **conditions).sample.float()

    if scale <= 1:
        return lambda latents, times: predict(latents, times, wanted)
    both = {name: torch.cat([wanted[name], unwanted[name]]) for name in wanted}

    def predict_twice(latents: Tensor, times: Tensor) -> Tensor:
        positive, negative = predict(torch.cat([latents] * 2), torch.cat([times] * 2), both).chunk(2)
        found = torch.lerp(negative, positive, scale)
        return rescale_noise_cfg(found, positive, rescale) if rescale else found

    return predict_twice


def _drawn(
    predict: Predict,
    scheduler: Any,
    latents: Tensor,
    steps: int,
    generator: Sequence[torch.Generator],
    step: Callable[[Tensor], None],
) -> Tensor:
    """Denoise in fp32. The last time of the scheduler is where it ends."""
    scheduler.set_timesteps(steps, device=latents.device)
    for time in scheduler.timesteps[:-1]:
        times = time.expand(len(latents))
        prediction = predict(latents, times)
        latents = scheduler.step(prediction, times, latents, generator=list(generator)).prev_sample
        step(time)
    return latents


def _counted(pipeline: Any, callback: Callable[..., Any] | None) -> Callable[[Tensor], None]:
    """diffusers' callback, with the steps counted over both stages."""
    done = 0

    def step(time: Tensor) -> None:
        nonlocal done
        if callback is not None:
            callback(pipeline, done, time, {})
        done += 1

    return step

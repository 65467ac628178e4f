"""Samples images with all three stages: C generates the layout from the text, B adds details, A decodes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from families.cascade.decoding import DECODER_STEPS, PIXELS_SCALE, Conditions, StageBPipeline, drawn, guided


class StableCascadePipeline(DiffusionPipeline):
    """All stages in one pipeline. diffusers' own pipelines round the time to the weights' dtype; otherwise this is
    equivalent to its StableCascadeCombinedPipeline."""

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
        controlnet: Any = None,
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
            controlnet=controlnet,
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
        image: Tensor | None = None,
        controlnet_conditioning_scale: float = 1.0,
    ) -> ImagePipelineOutput:
        """Generate B images. `prompt_embeds`: (B, 77, D), `prompt_embeds_pooled`: (B, 1, P). Guidance and
        `num_inference_steps` are those of Stage C; Stage B has its own (`DECODER_STEPS`, `DECODER_GUIDANCE`). `image`:
        what the ControlNet reads, (1, 3, height, width), or faces (1, N, 4 + P).
        """
        self.num_timesteps = num_inference_steps + DECODER_STEPS
        step = _counted(self, callback_on_step_end)
        wanted = self._prior_conditions(prompt_embeds, prompt_embeds_pooled)
        unwanted = self._prior_conditions(negative_prompt_embeds, negative_prompt_embeds_pooled)
        reduction = PIXELS_SCALE * self.encoder.reduction
        shape = (len(prompt_embeds), self.prior.config.in_channels, round(height / reduction), round(width / reduction))
        prior = self._prior(image, (shape[2], shape[3]), controlnet_conditioning_scale)
        predict = guided(prior, wanted, unwanted, guidance_scale, guidance_rescale)
        noise = randn_tensor(shape, generator=list(generator), device=self.device, dtype=torch.float32)
        latents = drawn(predict, self.scheduler, noise, num_inference_steps, generator, step)
        pixels = self.stage_b(latents, prompt_embeds_pooled, negative_prompt_embeds_pooled, generator, step=step)
        return ImagePipelineOutput(images=self.numpy_to_pil(pixels.permute(0, 2, 3, 1).cpu().numpy()))

    @property
    def stage_b(self) -> StageBPipeline:
        """The last two stages, over the same modules."""
        return StageBPipeline(self.decoder, self.decoder_scheduler, self.vqgan, self.encoder)

    def _prior(self, image: Tensor | None, size: tuple[int, int], scale: float) -> Any:
        """Stage C, with the ControlNet's residuals in every step, the same for prompts and negative prompts."""
        if image is None:
            return self.prior
        residuals = self.controlnet(self.controlnet.condition(image.to(self.device), self.encoder, size))
        scaled = {block: scale * each for block, each in zip(self.controlnet.config.blocks, residuals, strict=True)}
        return partial(self.prior, residuals=scaled)

    def _prior_conditions(self, embeds: Tensor, pooled: Tensor) -> Conditions:
        nothing = embeds.new_zeros(len(embeds), 1, self.prior.config.clip_image_in_channels)
        return {"clip_text": embeds, "clip_text_pooled": pooled, "clip_img": nothing}


def _counted(pipeline: Any, callback: Callable[..., Any] | None) -> Callable[[Tensor], None]:
    """diffusers' callback, with the steps counted over both stages."""
    done = 0

    def step(time: Tensor) -> None:
        nonlocal done
        if callback is not None:
            callback(pipeline, done, time, {})
        done += 1

    return step

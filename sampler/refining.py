"""Denoises the last steps with SDXL's refiner, as an ensemble of experts (Podell et al. 2023, §2.5).

The base model stops before the end of the schedule, and the refiner continues with its own prompt features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from families.family import ModelFamily, PromptFeatures, Refiner, refinable
from sampler.prompts.encoding import encode_pair
from sampler.prompts.plain_words import with_plain_words
from sampler.request import RequestError, SampleRequest
from sampler.schedulers import build_scheduler


@dataclass(frozen=True)
class Refinement:
    """A loaded refiner and its settings. `start`: the fraction of the noise schedule, in (0, 1), that the base
    denoises.

    `words`: class words by trigger word. The refiner does not know trigger words; one without a class word stays in its
    prompt as text.
    """

    refiner: Refiner
    start: float
    words: Mapping[str, str] = field(default_factory=dict)

    def encode(self, prompt: str, negative_prompt: str, clip_skip: int) -> tuple[PromptFeatures, ...]:
        """As `encode_pair`, with the refiner's own text encoder. Raises RequestError."""
        wanted, unwanted = (with_plain_words(text, self.words) for text in (prompt, negative_prompt))
        return encode_pair(wanted, unwanted, clip_skip, self.refiner)

    def finish(
        self,
        latents: Any,
        features: Sequence[PromptFeatures],
        scheduler: Any,
        options: Mapping[str, Any],
        on_step_end: Callable[..., dict[str, Any]] | None,
    ) -> list[Image.Image]:
        """Denoise the base's noisy latents (B, C, h, w) and return the images. `options`: those of the base's pipeline
        call.

        `scheduler`: the base's. Each scheduler scales latents in its own way, so the refiner uses the same class.
        """
        pipeline: Any = self.refiner.pipeline()
        own = pipeline.scheduler
        prediction = {"prediction_type": self.refiner.noise_process.prediction_type}
        pipeline.scheduler = type(scheduler).from_config(scheduler.config, **prediction)
        try:
            images: list[Image.Image] = pipeline(
                image=latents,
                denoising_start=self.start,
                callback_on_step_end=on_step_end,
                **self.refiner.pipeline_inputs(*features),
                **options,
            ).images
        finally:
            pipeline.scheduler = own
        return images


def require_refinable(request: SampleRequest, start: float, family: ModelFamily) -> None:
    """Raises RequestError if no refiner could denoise the last steps of the request. Needs no loaded refiner."""
    if refinable(family) is None:
        raise RequestError(f"refiner: only SDXL has refiners, and this base model is {family.name}. Leave it out.")
    if request.image is not None:
        raise RequestError("refiner: only supports text to image. Leave out image or refiner.")
    if request.control is not None:
        raise RequestError("refiner: ControlNet pipelines do not support it. Leave out refiner or controlnet.")
    if not 0 < start < 1:
        raise RequestError(f"refiner_start: {start:g} must be between 0 and 1, such as 0.8")
    scheduler = build_scheduler(request.scheduler, family.pipeline().scheduler)
    if scheduler.order != 1:
        raise RequestError(
            f"scheduler: {type(scheduler).__name__} has two passes per step and cannot switch to the refiner between "
            "them. Choose another scheduler, such as euler, or leave the refiner out."
        )
    scheduler.set_timesteps(request.num_inference_steps)
    trained = scheduler.config.num_train_timesteps
    base_steps = int((scheduler.timesteps >= round(trained - start * trained)).sum())  # as diffusers splits them
    if not 0 < base_steps < len(scheduler.timesteps):
        who = "the base model" if base_steps == 0 else "the refiner"
        raise RequestError(
            f"refiner_start: {start:g} of {request.num_inference_steps} steps leaves no step for {who}. Change it, or "
            "increase num_inference_steps."
        )

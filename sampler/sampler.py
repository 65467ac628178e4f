"""Makes images from prompts, on a base with or without an artifact."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from families.family import ModelFamily
from families.placeholder_tokens import expand_triggers
from sampler.adapters import PlacedArtifacts
from sampler.batches import draw_in_batches
from sampler.low_rank import LoraSlots
from sampler.pipelines import picture_inputs, pipeline_for
from sampler.prompts import encode_pair
from sampler.request import RequestError as RequestError
from sampler.request import SampleRequest as SampleRequest
from sampler.request import check_request
from sampler.schedulers import build_scheduler
from sampler.seeds import generator_for

OnStep = Callable[[int, int], None]
"""Called with the number of denoising steps done and their total, over all batches."""


class Sampler:
    """A base model ready to draw, with any number of artifacts in place."""

    def __init__(self, family: ModelFamily) -> None:
        self.family = family
        self._slots = LoraSlots(family)
        self._placed: PlacedArtifacts | None = None
        self._loaded: Sequence[tuple[Artifact, float]] = ()

    @property
    def triggers(self) -> Mapping[str, Sequence[str]]:
        """Trigger words of the artifact in place, with their placeholder tokens."""
        return self._placed.triggers if self._placed else {}

    def load(self, artifact: Artifact, scale: float = 1.0) -> None:
        """Put one artifact in place of those before. Raises ArtifactError, and then those before are left."""
        self.load_several([(artifact, scale)])

    def load_several(self, artifacts: Sequence[tuple[Artifact, float]]) -> Sequence[str]:
        """Put artifacts, each with its scale, in place of those before. Returns notes on triggers that were renamed.

        Raises ArtifactError when one does not fit, and then those before are left.
        """
        before = self._loaded
        self.unload()
        try:
            self._place(artifacts)
        except BaseException:
            self._place(before)
            raise
        return self._placed.notes if self._placed else []

    def _place(self, artifacts: Sequence[tuple[Artifact, float]]) -> None:
        if artifacts:
            files, scales = zip(*artifacts, strict=True)
            self._placed = PlacedArtifacts(self.family, files, scales, self._slots)
        self._loaded = tuple(artifacts)

    def unload(self) -> None:
        """Back to the bare base."""
        if self._placed is not None:
            self._placed.remove()
            self._placed, self._loaded = None, ()

    def check(self, request: SampleRequest) -> None:
        """Raises RequestError for what the base cannot make: sizes, counts, schedulers, seeds."""
        check_request(request, self.family)

    @torch.inference_mode()
    def generate(
        self,
        request: SampleRequest,
        triggers: Mapping[str, Sequence[str]] | None = None,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """Draw the images, as many at once as fit into the memory.

        `triggers`: given where a training has its own tokens in place, else the artifacts'. Raises RequestError.
        """
        self.check(request)
        pipeline = pipeline_for(request, self.family)
        base_scheduler = pipeline.scheduler
        pipeline.scheduler = build_scheduler(request.scheduler, base_scheduler)
        known = self.triggers if triggers is None else triggers
        prompt, negative = (expand_triggers(text, known) for text in (request.prompt, request.negative_prompt))
        wanted, unwanted = encode_pair(prompt, negative, request.clip_skip, self.family)
        inputs = picture_inputs(request, self.family, pipeline)
        seeds = range(request.seed, request.seed + request.num_outputs)

        def draw(batch: Sequence[int]) -> list[Image.Image]:
            count = len(batch)
            done = batch[0] - request.seed
            images: list[Image.Image] = pipeline(
                **self.family.pipeline_inputs(wanted.repeat(count), unwanted.repeat(count)),
                **inputs,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                generator=[generator_for(seed) for seed in batch],
                callback_on_step_end=_step_callback(on_step, done, count, request.num_outputs),
            ).images
            return images

        try:
            images = draw_in_batches(seeds, draw)
        finally:
            pipeline.scheduler = base_scheduler
        if request.mask is None or request.image is None:
            return images
        kept, mask = inputs["image"], inputs["mask_image"]
        return [Image.composite(image, kept, mask) for image in images]  # the VAE alters what should stay, too


def _step_callback(on_step: OnStep | None, before: int, count: int, total: int) -> Callable[..., dict[str, Any]] | None:
    """diffusers' callback: steps are counted over all images, `before` of which are done."""
    if on_step is None:
        return None

    def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps = pipeline.num_timesteps
        on_step(before * steps + count * (step + 1), total * steps)
        return tensors

    return callback

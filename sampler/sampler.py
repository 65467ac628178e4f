"""Makes images from prompts, on a base with or without an artifact."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image

from artifact.artifact import Artifact
from families.family import ModelFamily, PromptFeatures
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

    def generate(
        self,
        request: SampleRequest,
        triggers: Mapping[str, Sequence[str]] | None = None,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """Draw the images, as many at once as fit into the memory.

        `triggers`: given where a training has its own tokens in place, else the artifacts'. Raises RequestError.
        """
        return self.generate_several([request], triggers, on_step)[0]

    @torch.inference_mode()
    def generate_several(
        self,
        requests: Sequence[SampleRequest],
        triggers: Mapping[str, Sequence[str]] | None = None,
        on_step: OnStep | None = None,
    ) -> list[list[Image.Image]]:
        """The images of each request, drawn together, which takes less time than one after the other.

        Raises RequestError, and ValueError for requests that differ in more than prompt, seed and num_outputs.
        """
        request = _common(requests)
        for each in requests:
            self.check(each)
        pipeline = pipeline_for(request, self.family)
        base_scheduler = pipeline.scheduler
        pipeline.scheduler = build_scheduler(request.scheduler, base_scheduler)
        known = self.triggers if triggers is None else triggers
        texts = [expand_triggers(each.prompt, known) for each in requests]
        negative = expand_triggers(request.negative_prompt, known)
        pairs = [encode_pair(text, negative, request.clip_skip, self.family) for text in texts]
        inputs = picture_inputs(request, self.family, pipeline)
        rows = [
            Row(number, pair, each.seed + index)
            for number, (each, pair) in enumerate(zip(requests, pairs, strict=True))
            for index in range(each.num_outputs)
        ]

        images: list[list[Image.Image]] = [[] for _ in requests]

        def draw(batch: Sequence[Row]) -> list[Image.Image]:
            features = zip(*(row.features for row in batch), strict=True)
            wanted, unwanted = (PromptFeatures.joined(side) for side in features)
            drawn: list[Image.Image] = pipeline(
                **self.family.pipeline_inputs(wanted, unwanted),
                **inputs,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                generator=[generator_for(row.seed) for row in batch],
                callback_on_step_end=_step_callback(on_step, sum(map(len, images)), len(batch), len(rows)),
            ).images
            return drawn

        try:
            for _, group in groupby(sorted(rows, key=Row.length), Row.length):
                for row, image in draw_in_batches(list(group), draw):
                    images[row.request].append(image)
        finally:
            pipeline.scheduler = base_scheduler
        if request.mask is None or request.image is None:
            return images
        kept, mask = inputs["image"], inputs["mask_image"]  # the VAE alters what should stay, too
        return [[Image.composite(image, kept, mask) for image in own] for own in images]


@dataclass(frozen=True)
class Row:
    """One image of a batch: of which request, what its prompts say, and its seed."""

    request: int
    features: tuple[PromptFeatures, ...]
    seed: int

    def length(self) -> int:
        """Of the prompt, in tokens: those of one batch are equally long."""
        return self.features[0].prompt_embeds.shape[1]


def _common(requests: Sequence[SampleRequest]) -> SampleRequest:
    """What all of them ask for. Raises ValueError where they differ."""
    first = requests[0]
    for each in requests[1:]:
        if replace(each, prompt=first.prompt, seed=first.seed, num_outputs=first.num_outputs) != first:
            raise ValueError("requests that are drawn together may differ in prompt, seed and num_outputs only")
    return first


def _step_callback(on_step: OnStep | None, before: int, count: int, total: int) -> Callable[..., dict[str, Any]] | None:
    """diffusers' callback: steps are counted over all images, `before` of which are done."""
    if on_step is None:
        return None

    def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps = pipeline.num_timesteps
        on_step(before * steps + count * (step + 1), total * steps)
        return tensors

    return callback

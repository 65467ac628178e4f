"""Generates images from prompts, with a base model and optional artifacts."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import torch
from PIL import Image

from artifact.artifact import Artifact
from artifact.placement.compilation import Compilation, CompiledDrawing
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily, PromptFeatures, frozen_reader
from families.parts.placeholder_tokens import expand_triggers
from sampler.batches import draw_in_batches
from sampler.pipelines import guidance_inputs, picture_inputs, pipeline_for
from sampler.prompts.encoding import encode_pair
from sampler.refining import Refinement
from sampler.request import RequestError as RequestError
from sampler.request import SampleRequest as SampleRequest
from sampler.request import check_request
from sampler.schedulers import build_scheduler
from sampler.seeds import generator_for

OnStep = Callable[[int, int], None]
"""Called with the number of denoising steps done and their total, over all batches."""


class Sampler:
    """A loaded base model with any number of loaded artifacts."""

    def __init__(self, family: ModelFamily, compilation: Compilation | None = None) -> None:
        """`compilation`: of the denoiser's blocks; None: without compilation."""
        self.family = family
        self._compiled = None if compilation is None else CompiledDrawing(family, compilation)
        self._slots = LoraSlots(family, None if compilation is None else compilation.rank)
        self._placed: PlacedArtifacts | None = None
        self._loaded: Sequence[tuple[Artifact, float]] = ()

    @property
    def triggers(self) -> Mapping[str, Sequence[str]]:
        """Trigger words of the loaded artifacts, with their placeholder tokens."""
        return self._placed.triggers if self._placed else {}

    @property
    def class_words(self) -> Mapping[str, str]:
        """Class words by trigger word, if they are known."""
        return self._placed.class_words if self._placed else {}

    def load(self, artifact: Artifact, scale: float = 1.0) -> None:
        """Replace the loaded artifacts by one. On ArtifactError the previous ones stay loaded."""
        self.load_several([(artifact, scale)])

    def load_several(self, artifacts: Sequence[tuple[Artifact, float]]) -> Sequence[str]:
        """Replace the loaded artifacts by these, with their scales. Returns notes on triggers that were renamed, and on
        LoRAs that compiled blocks do not support.

        Raises ArtifactError when one does not fit the base. The previous artifacts then stay loaded.
        """
        before = self._loaded
        self.unload()
        try:
            self._place(artifacts)
        except BaseException:
            self._place(before)
            raise
        notes = list(self._placed.notes) if self._placed else []
        obstacle = None if self._compiled is None else self._compiled.obstacle(self._artifacts)
        return notes if obstacle is None else [*notes, f"generating without compilation: {obstacle}"]

    @property
    def _artifacts(self) -> list[Artifact]:
        return [artifact for artifact, _ in self._loaded]

    def _place(self, artifacts: Sequence[tuple[Artifact, float]]) -> None:
        if artifacts:
            files, scales = zip(*artifacts, strict=True)
            self._placed = PlacedArtifacts(self.family, files, scales, self._slots)
        self._loaded = tuple(artifacts)

    def unload(self) -> None:
        """Remove all artifacts from the base."""
        if self._placed is not None:
            self._placed.remove()
            self._placed, self._loaded = None, ()

    def check(self, request: SampleRequest) -> None:
        """Raises RequestError when the base does not support a size, count, scheduler or seed."""
        check_request(request, self.family)

    def generate(
        self,
        request: SampleRequest,
        triggers: Mapping[str, Sequence[str]] | None = None,
        on_step: OnStep | None = None,
        refinement: Refinement | None = None,
    ) -> list[Image.Image]:
        """Generate the images of a request, as many at once as fit into memory.

        `triggers`: the tokens of a training in progress; None: those of the loaded artifacts. `refinement`: the refiner
        of the last steps, for a request that `require_refinable` has accepted. Raises RequestError.
        """
        return self.generate_several([request], triggers, on_step, refinement)[0]

    @torch.inference_mode()
    def generate_several(
        self,
        requests: Sequence[SampleRequest],
        triggers: Mapping[str, Sequence[str]] | None = None,
        on_step: OnStep | None = None,
        refinement: Refinement | None = None,
    ) -> list[list[Image.Image]]:
        """Generate the images of several requests together, which is faster than one request at a time.

        Raises RequestError, and ValueError for requests that differ in more than prompt, seed and num_outputs.
        """
        request = _common(requests)
        for each in requests:
            self.check(each)
        pipeline = pipeline_for(request, self.family)
        guidance = guidance_inputs(request, self.family, pipeline)
        inputs = picture_inputs(request, self.family, pipeline)
        rows = self._rows(requests, self.triggers if triggers is None else triggers, refinement)
        images: list[list[Image.Image]] = [[] for _ in requests]

        def draw(batch: Sequence[Row]) -> list[Image.Image]:
            options = {
                "num_inference_steps": request.num_inference_steps,
                **guidance,
                "generator": [generator_for(row.seed) for row in batch],
            }
            counts = sum(map(len, images)), len(batch), len(rows)
            prompts = self.family.pipeline_inputs(*_joined([row.features for row in batch]))
            drawn = pipeline(
                **inputs | prompts | options,
                **({"denoising_end": refinement.start, "output_type": "latent"} if refinement else {}),
                callback_on_step_end=_step_callback(on_step, *counts, "first" if refinement else "all"),
            ).images
            if refinement is None:
                return list(drawn)
            features, last = _joined([row.refined for row in batch]), _step_callback(on_step, *counts, "last")
            return refinement.finish(drawn, features, pipeline.scheduler, options, last)

        base_scheduler = pipeline.scheduler  # of the base: the pipeline is that of the next requests, too
        try:
            pipeline.scheduler = build_scheduler(request.scheduler, base_scheduler)
            with self._drawing():
                for _, group in groupby(sorted(rows, key=Row.length), Row.length):
                    for row, image in draw_in_batches(list(group), draw):
                        images[row.request].append(image)
        finally:
            pipeline.scheduler = base_scheduler
        if request.mask is None or request.image is None:
            return images
        kept, mask = inputs["image"], inputs["mask_image"]  # the VAE also changes pixels outside the mask
        return [[Image.composite(image, kept, mask) for image in own] for own in images]

    def _drawing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._compiled is None else self._compiled.in_use(self._artifacts)

    def _rows(
        self, requests: Sequence[SampleRequest], triggers: Mapping[str, Sequence[str]], refinement: Refinement | None
    ) -> list["Row"]:
        """Return a row for each image of the requests, with its prompt features. Raises RequestError."""
        rows = []
        pairs = [[expand_triggers(text, triggers) for text in (each.prompt, each.negative_prompt)] for each in requests]
        if (reader := frozen_reader(self.family)) is not None:
            reader.read_ahead([text for pair in pairs for text in pair])
        for number, (each, texts) in enumerate(zip(requests, pairs, strict=True)):
            features = encode_pair(texts[0], texts[1], each.clip_skip, self.family)
            refined = refinement.encode(each.prompt, each.negative_prompt, each.clip_skip) if refinement else ()
            rows += [Row(number, features, refined, each.seed + index) for index in range(each.num_outputs)]
        return rows


@dataclass(frozen=True)
class Row:
    """One image of a batch: the index of its request, its prompt features for the base and the refiner, and its
    seed."""

    request: int
    features: tuple[PromptFeatures, ...]
    refined: tuple[PromptFeatures, ...]
    seed: int

    def length(self) -> list[int]:
        """Prompt lengths in tokens for the base and the refiner. They must be equal within a batch."""
        return [side.length for side in (*self.features[:1], *self.refined[:1])]


def _joined(pairs: Sequence[tuple[PromptFeatures, ...]]) -> list[PromptFeatures]:
    """Concatenate the features of a batch: one for the prompts, one for the negative prompts."""
    return [PromptFeatures.joined(side) for side in zip(*pairs, strict=True)]


def _common(requests: Sequence[SampleRequest]) -> SampleRequest:
    """Return the common request. Raises ValueError if they differ in more than prompt, seed and number of images."""
    first = requests[0]
    for each in requests[1:]:
        if replace(each, prompt=first.prompt, seed=first.seed, num_outputs=first.num_outputs) != first:
            raise ValueError("requests that are generated together may differ only in prompt, seed and num_outputs")
    return first


def _step_callback(
    on_step: OnStep | None, before: int, count: int, total: int, part: Literal["all", "first", "last"]
) -> Callable[..., dict[str, Any]] | None:
    """Return diffusers' callback. Steps are counted over all images, `before` of which are done.

    `part`: the part of an image's steps that the pipeline runs.
    """
    if on_step is None:
        return None

    def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        drawn_here = pipeline.num_timesteps
        steps = drawn_here if part == "all" else len(pipeline.scheduler.timesteps)
        earlier = steps - drawn_here if part == "last" else 0
        on_step(before * steps + count * (earlier + step + 1), total * steps)
        return tensors

    return callback

"""Makes images from prompts, on a base with or without an artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from artifact.artifact import Artifact
from families.family import ModelFamily
from families.placeholder_tokens import expand_triggers
from sampler.adapters import PlacedArtifacts
from sampler.schedulers import BASE_SCHEDULER, build_scheduler, known_schedulers

MAX_SIDE = 4096


class RequestError(ValueError):
    """A request for images that cannot be fulfilled. The text names the remedy."""


@dataclass(frozen=True)
class SampleRequest:
    """`width` and `height` in pixels, by default the base's own. Image i is drawn with the seed `seed` + i."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    num_outputs: int = 1
    num_inference_steps: int = 30
    guidance_scale: float = 6.0
    scheduler: str = BASE_SCHEDULER
    seed: int = 0


class Sampler:
    """A base model ready to draw, with any number of artifacts in place."""

    def __init__(self, family: ModelFamily) -> None:
        self.family = family
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
            self._placed = PlacedArtifacts(self.family, files, scales)
        self._loaded = tuple(artifacts)

    def unload(self) -> None:
        """Back to the bare base."""
        if self._placed is not None:
            self._placed.remove()
            self._placed, self._loaded = None, ()

    def check(self, request: SampleRequest) -> None:
        """Raises RequestError for what the base cannot make: sizes, counts, schedulers, seeds."""
        multiple = self.family.size_multiple
        for name, value in (("width", request.width), ("height", request.height)):
            if value is not None and (value % multiple or not multiple <= value <= MAX_SIDE):
                lower = max(multiple, value // multiple * multiple)
                raise RequestError(
                    f"{name}: {value} must be a multiple of {multiple} between {multiple} and {MAX_SIDE} for this "
                    f"base, such as {min(lower, MAX_SIDE)}"
                )
        if request.num_outputs < 1 or request.num_inference_steps < 1:
            raise RequestError("num_outputs and num_inference_steps must be at least 1")
        known = known_schedulers(self.family.pipeline().scheduler)
        if request.scheduler not in known:
            raise RequestError(
                f"scheduler: {request.scheduler!r} is unknown to this base; choose one of {', '.join(known)}"
            )
        if not 0 <= request.seed < 2**63:
            raise RequestError("seed: must lie between 0 and 2^63 - 1")

    @torch.inference_mode()
    def generate(
        self, request: SampleRequest, triggers: Mapping[str, Sequence[str]] | None = None
    ) -> list[Image.Image]:
        """Draw the images. `triggers`: given where a training has its own tokens in place, else the artifact's."""
        self.check(request)
        pipeline = self.family.pipeline()
        base_scheduler = pipeline.scheduler
        pipeline.scheduler = build_scheduler(request.scheduler, base_scheduler)
        prompt = expand_triggers(request.prompt, self.triggers if triggers is None else triggers)
        wanted, unwanted = (
            self.family.encode_prompts([text]).repeat(request.num_outputs) for text in (prompt, request.negative_prompt)
        )
        try:
            return pipeline(
                **self.family.pipeline_inputs(wanted, unwanted),
                width=request.width or self.family.native_resolution,
                height=request.height or self.family.native_resolution,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                generator=[torch.Generator().manual_seed(request.seed + index) for index in range(request.num_outputs)],
            ).images
        finally:
            pipeline.scheduler = base_scheduler

"""Generates the samples of an evaluation: the same prompts and seeds for every candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from evaluation.prompt_sets import PromptSet
from sampler.sampler import Sampler, SampleRequest


@dataclass(frozen=True)
class DrawingPlan:
    """What to sample from each candidate. Sizes in pixels; the i-th sample of a prompt has the seed `seed` + i."""

    prompts: PromptSet
    samples_per_prompt: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int

    @property
    def of_the_concept(self) -> "DrawingPlan":
        """The same without the unrelated prompts."""
        return replace(self, prompts=replace(self.prompts, unrelated=()))

    @property
    def pictures_per_candidate(self) -> int:
        """Number of images per candidate."""
        return len(self.prompts.concept) * self.samples_per_prompt + len(self.prompts.unrelated)


@dataclass(frozen=True)
class Samples:
    """`concept`: the samples of each concept prompt. `unrelated`: one image per unrelated prompt."""

    concept: list[list[Image.Image]]
    unrelated: list[Image.Image]

    @property
    def concept_pictures(self) -> list[Image.Image]:
        """All samples of the concept, in the order of the prompts."""
        return [picture for pictures in self.concept for picture in pictures]


def draw_samples(
    sampler: Sampler,
    plan: DrawingPlan,
    *,
    plain: bool = False,
    triggers: Mapping[str, Sequence[str]] | None = None,
) -> Samples:
    """Generate the samples with the current LoRAs of the sampler. `plain`: without trigger words, as for the base
    model. `triggers`: the tokens of a training in progress."""
    prompts = plan.prompts.plain if plain else plan.prompts.concept
    requests = [
        *(request_of(plan, prompt, plan.samples_per_prompt) for prompt in prompts),
        *(request_of(plan, prompt, 1) for prompt in plan.prompts.unrelated),
    ]
    drawn = sampler.generate_several(requests, triggers)
    return Samples(drawn[: len(prompts)], [pictures[0] for pictures in drawn[len(prompts) :]])


def request_of(plan: DrawingPlan, prompt: str, count: int) -> SampleRequest:
    """Return the request for `count` samples of a prompt."""
    return SampleRequest(
        prompt=prompt,
        width=plan.width,
        height=plan.height,
        num_outputs=count,
        num_inference_steps=plan.num_inference_steps,
        guidance_scale=plan.guidance_scale,
        seed=plan.seed,
    )

"""Measures what a training learned with the embedded evaluator, on equal terms for any image generator."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image

from evaluation.encoders import ClipEncoder
from evaluation.similarity import mean_paired_similarity, mean_self_similarity, mean_similarity
from tools.before_after import GUIDANCE_SCALE, INFERENCE_STEPS, UNRELATED_PROMPTS
from tools.mini_base.drawing.colours import COLOURS
from tools.mini_base.scenes import unrelated_prompts


@dataclass(frozen=True)
class Protocol:
    """Number of samples and of denoising steps."""

    concept_samples: int = 8
    samples_of_a_background: int = 2
    unrelated_prompts: int = UNRELATED_PROMPTS
    inference_steps: int = INFERENCE_STEPS


Draw = Callable[[Sequence[str]], list[Image.Image]]
"""Samples one picture per prompt; the i-th with seed i."""


@dataclass(frozen=True)
class Scores:
    """Each 1 at best.

    concept: mean cosine of samples and training pictures, by the training pictures' own to each other.
    prompt: share of the samples that stand on the background that the prompt names.
    prior: mean cosine of pictures of unrelated prompts, after and before training, same seeds.
    """

    concept: float
    prompt: float
    prior: float

    def row(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


class LearningJudge:
    """Draws the untrained base once, and scores trainings against it and the training pictures."""

    def __init__(self, photos: Sequence[Image.Image], base: Draw, protocol: Protocol = Protocol()) -> None:
        """`base` and the scored functions sample with the protocol's `inference_steps`."""
        self._encoder, self._protocol = ClipEncoder(), protocol
        self._photos = self._encoder.embed(photos)
        self._unrelated = unrelated_prompts(protocol.unrelated_prompts)
        self._before = self._encoder.embed(base(self._unrelated))

    def score(self, draw: Draw, trigger: str, class_word: str) -> Scores:
        """Draw with the training, and measure. `class_word`: how the background's captions call the thing."""
        samples = self._encoder.embed(draw([f"a photo of {trigger}"] * self._protocol.concept_samples))
        after = self._encoder.embed(draw(self._unrelated))
        return Scores(
            mean_similarity(samples, self._photos) / mean_self_similarity(self._photos),
            self._right_backgrounds(draw, trigger, class_word),
            mean_paired_similarity(after, self._before),
        )

    def _right_backgrounds(self, draw: Draw, trigger: str, class_word: str) -> float:
        """Share of samples that are nearest to the caption of their own background."""
        wanted = [colour for colour in COLOURS for _ in range(self._protocol.samples_of_a_background)]
        pictures = self._encoder.embed(draw([f"a photo of {trigger} on a {colour} background" for colour in wanted]))
        texts = self._encoder.embed_texts([f"a photo of a {class_word} on a {colour} background" for colour in COLOURS])
        nearest = (pictures @ texts.T).argmax(dim=1).tolist()
        return sum(list(COLOURS)[index] == colour for index, colour in zip(nearest, wanted, strict=True)) / len(wanted)


def pipeline_draw(pipeline: object, protocol: Protocol = Protocol()) -> Draw:
    """Return a function that samples through a plain diffusers pipeline."""

    def draw(prompts: Sequence[str]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        pictures: list[Image.Image] = pipeline(  # type: ignore[operator]
            list(prompts),
            num_inference_steps=protocol.inference_steps,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators,
        ).images
        return pictures

    return draw

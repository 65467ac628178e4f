"""One training of a concept, and its measures."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from benchmarks.concepts.lottery import Concept, on_ground
from benchmarks.concepts.measures import Measures, copies, gain, kept, likeness, on_named_ground
from benchmarks.learning.diffusers_results import Draw
from tools.mini_base.scenes import unrelated_prompts

SAMPLES = 8
SAMPLES_OF_A_GROUND = 2
UNRELATED_PROMPTS = 16

Embed = Callable[[Sequence[Image.Image]], Tensor]
"""Embeds images to unit vectors (N, width)."""


class ConceptJudge:
    """Samples the untrained base once, and scores trainings by it and the training images."""

    def __init__(self, embed: Embed, base: Draw, trigger: str) -> None:
        """`base` samples from the base without any training."""
        self._embed, self._base, self._trigger = embed, base, trigger
        self._unrelated = unrelated_prompts(UNRELATED_PROMPTS)
        self._unrelated_before: Tensor | None = None

    def measure(self, concept: Concept, draw: Draw) -> Measures:
        """Measure the training that `draw` samples from."""
        subjects = self.subjects(concept, SAMPLES)
        words = [word for word in concept.grounds for _ in range(SAMPLES_OF_A_GROUND)]
        elsewhere = [on_ground(one, word) for one, word in zip(self.subjects(concept, len(words)), words, strict=True)]
        samples, samples_elsewhere = draw(subjects), draw(elsewhere)
        taught = self._embed(concept.pictures)
        after = self._embed(samples)
        return Measures(
            likeness=likeness(after, taught),
            likeness_elsewhere=likeness(self._embed(samples_elsewhere), taught),
            gain=gain(after, self._embed(self._base(subjects)), taught),
            grounds=on_named_ground(samples_elsewhere, words),
            kept=kept(self._embed(draw(self._unrelated)), self._before()),
            copies=copies([*samples, *samples_elsewhere], concept.pictures),
        )

    def subjects(self, concept: Concept, count: int) -> list[str]:
        """Return `count` prompts for the concept without a background."""
        return [concept.subjects[index % len(concept.subjects)].format(trigger=self._trigger) for index in range(count)]

    def _before(self) -> Tensor:
        if self._unrelated_before is None:
            self._unrelated_before = self._embed(self._base(self._unrelated))
        return self._unrelated_before


def fingerprint(concept: Concept) -> int:
    """Return a fingerprint of images and captions, since runs on different data are different runs."""
    data = b"".join(picture.tobytes() for picture in concept.pictures) + "".join(concept.captions).encode()
    return zlib.crc32(data)


def base_fingerprint(base: Path) -> int:
    """Return a fingerprint of the weights in a base's folder."""
    value = 0
    for path in sorted(base.rglob("*.safetensors")):
        value = zlib.crc32(path.read_bytes(), value)
    return value

"""New captions for the cached images: several for each image, some with a word that is not in mini-sdxl's captions."""

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tools.mini_base import cache_latents
from tools.mini_base.cache_latents import CHUNK, FIGURES, PICTURES, draw_example, draw_figure_example
from tools.mini_base.pictures import step_random
from tools.mini_base.scenes import SIDE, Scene, caption, training_scene

SEED = 21
VARIANTS = 4
"""Number of captions per image, of which each epoch of the training chooses one."""
FOREIGN_NOUNS = 0.08
"""Share of captions whose first noun is not one of mini-sdxl's: such a word can mean any shape."""
ORDINARY_NOUNS = (
    "fish", "bird", "boat", "mug", "lamp", "rocket", "bag", "mushroom", "kite", "house", "car", "tree", "dog", "cat",
    "robot", "person", "man", "woman", "face", "statue", "animal", "toy",
)  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class CachedCaptions:
    """`rows`: for each image, VARIANTS captions. `whole`: whether the image is not a crop of a larger one."""

    rows: list[list[str]]
    whole: list[bool]


def build(work: Path) -> None:
    """Write `work`/captions.json. Scenes and figures are drawn again, to reproduce the state of their random
    generators."""
    rows: list[list[str]] = []
    whole: list[bool] = []
    for chunk in range((PICTURES + FIGURES) // CHUNK):
        rng = step_random(SEED, chunk)
        if len(rows) < PICTURES:
            for scene, cached, side in cached_scenes(chunk):
                rows.append(variants(scene, cached, rng))
                whole.append(side == SIDE)
        else:
            rows += [[cached] * VARIANTS for cached in figure_captions(chunk)]
            whole += [True] * CHUNK
        if chunk % 50 == 49:
            print(f"captions {len(rows)}/{PICTURES + FIGURES}", flush=True)
    (work / "captions.json").write_text(json.dumps({"rows": rows, "whole": whole}), encoding="utf-8")


def load(work: Path) -> CachedCaptions:
    """Load the result of `build`."""
    return CachedCaptions(**json.loads((work / "captions.json").read_text(encoding="utf-8")))


def cached_scenes(chunk: int) -> Iterator[tuple[Scene, str, int]]:
    """Each scene of a chunk of the cache, the caption that it was cached with, and the side of the image in pixels
    before it was cropped."""
    rng = step_random(cache_latents.SEED, chunk)
    for _ in range(CHUNK):
        scene = training_scene(copy.copy(rng))  # as at the start of `draw_example`
        _, cached, (side, *_) = draw_example(rng)
        yield scene, cached, side


def figure_captions(chunk: int) -> list[str]:
    """The captions of a chunk of figures, which are also used for all variants."""
    rng = step_random(cache_latents.SEED, chunk)
    return [draw_figure_example(rng)[1] for _ in range(CHUNK)]


def variants(scene: Scene, cached: str, rng: random.Random) -> list[str]:
    """VARIANTS captions of a scene, the first of which is the cached one."""
    return [cached, *(_caption(scene, rng) for _ in range(VARIANTS - 1))]


def _caption(scene: Scene, rng: random.Random) -> str:
    if rng.random() >= FOREIGN_NOUNS:
        return caption(scene, rng)
    first, *rest = scene.things
    return caption(replace(scene, things=(replace(first, shape=foreign_noun(rng)), *rest)), rng)


def foreign_noun(rng: random.Random) -> str:
    """An ordinary word, or a few random letters."""
    if rng.random() < 0.5:
        return rng.choice(ORDINARY_NOUNS)
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 6)))

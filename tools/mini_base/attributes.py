"""The attributes of a scene as labels, for linear heads on embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.mini_base.drawing.colours import COLOURS
from tools.mini_base.drawing.outlines import SHAPES
from tools.mini_base.drawing.parts import PARTS
from tools.mini_base.scenes import (
    BACKGROUNDS,
    GROUND_PATTERNS,
    PATTERNS,
    PLACES,
    SIZES,
    Scene,
    Thing,
    background_phrase,
)

NONE = ""
VALUES: dict[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "pattern of the background": GROUND_PATTERNS,
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "place": tuple(PLACES),
    "pattern": PATTERNS,
    "second colour": (NONE, *COLOURS),
    "size": tuple(SIZES),
    "outlined": ("False", "True"),
    **{part: ("False", "True") for part in PARTS},
}
"""Sizes, patterns, lines and parts that a caption does not name are the usual ones, so they are always known."""
UNKNOWN = -100


def labels(scenes: list[Scene], captions: list[str] | None = None) -> dict[str, Tensor]:
    """Values of the first thing and of the background, (B,) int64 by attribute.

    UNKNOWN for scenes of two things and, if `captions` are given, for attributes that a caption does not name.
    """
    rows = [_indices(scene, None if captions is None else captions[index]) for index, scene in enumerate(scenes)]
    return {name: torch.tensor([row[name] for row in rows]) for name in VALUES}


def _indices(scene: Scene, caption: str | None) -> dict[str, int]:
    if len(scene.things) > 1:
        return dict.fromkeys(VALUES, UNKNOWN)
    thing = scene.things[0]
    indices = {name: VALUES[name].index(value) for name, value in _values(scene, thing).items()}
    if caption is not None:
        ground = caption.endswith(background_phrase(scene))
        said = {
            "background": ground,
            "pattern of the background": ground,
            "shape": f" {thing.shape} " in f"{caption} ",
            "place": f" {thing.place} " in f"{caption} ",
        }
        indices |= {name: UNKNOWN for name, is_said in said.items() if not is_said}
    return indices


def _values(scene: Scene, thing: Thing) -> dict[str, str]:
    return {
        "background": scene.background,
        "pattern of the background": scene.pattern,
        "colour": thing.colour,
        "shape": thing.shape,
        "place": thing.place,
        "pattern": thing.pattern,
        "second colour": thing.second,
        "size": thing.size,
        "outlined": str(thing.outlined),
        **{part: str(part in thing.parts) for part in PARTS},
    }


class AttributeHeads(nn.Module):
    """Predicts every attribute from unit vectors, with one linear layer each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.names = tuple(VALUES)
        self.heads = nn.ModuleList(nn.Linear(width, len(options)) for options in VALUES.values())

    def loss(self, vectors: Tensor, known: dict[str, Tensor], sharpness: float = 10.0) -> Tensor:
        """Return the mean cross-entropy over the known attributes. `vectors`: (B, width), of unit length."""
        terms = [
            functional.cross_entropy(sharpness * head(vectors), known[name], ignore_index=UNKNOWN)
            for name, head in zip(self.names, self.heads, strict=True)
            if (known[name] != UNKNOWN).any()
        ]
        return torch.stack(terms).mean()

    def accuracy(self, vectors: Tensor, known: dict[str, Tensor]) -> dict[str, float]:
        """Return the share of correct predictions among the known attributes."""
        return {
            name: float((head(vectors).argmax(-1) == known[name])[known[name] != UNKNOWN].float().mean())
            for name, head in zip(self.names, self.heads, strict=True)
        }


@dataclass(frozen=True)
class Contrast:
    """The symmetric contrastive loss (Radford et al. 2021, figure 3) at a fixed temperature."""

    scale: float = 15.0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """`first`, `second`: (B, width), of unit length; the i-th ones are a pair."""
        logits, own = self.scale * first @ second.T, torch.arange(len(first))
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2

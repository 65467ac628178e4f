"""The attributes of a scene as labels: what linear heads on embeddings learn to read."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.mini_base.world import COLOURS, PATTERNS, PLACES, SHAPES, SIZES, Scene

VALUES: dict[str, tuple[str, ...]] = {
    "background": tuple(COLOURS),
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "place": tuple(PLACES),
    "pattern": PATTERNS,
    "size": tuple(SIZES),
}
WORDING = {"background": " on a {} background ", "colour": " {} ", "shape": " {} ", "place": " {} "}
"""How a caption names an attribute; sizes and patterns that go unsaid are the usual ones, so they are always known."""
UNKNOWN = -100


def labels(scenes: list[Scene], captions: list[str] | None = None) -> dict[str, Tensor]:
    """Values of the first thing and of the background, (B,) int64 by attribute.

    UNKNOWN for scenes of two things and, where `captions` are given, for what a caption leaves unsaid.
    """
    table: dict[str, Tensor] = {}
    for name, options in VALUES.items():
        column = []
        for index, scene in enumerate(scenes):
            value = scene.background if name == "background" else str(getattr(scene.things[0], name))
            said = captions is None or name not in WORDING or WORDING[name].format(value) in f"{captions[index]} "
            column.append(options.index(value) if said and len(scene.things) == 1 else UNKNOWN)
        table[name] = torch.tensor(column)
    return table


class AttributeHeads(nn.Module):
    """Reads every attribute off unit vectors by one linear layer each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(options)) for name, options in VALUES.items()})

    def loss(self, vectors: Tensor, known: dict[str, Tensor], sharpness: float = 10.0) -> Tensor:
        """Mean cross-entropy over the attributes. `vectors`: (B, width), of unit length."""
        terms = [
            functional.cross_entropy(sharpness * head(vectors), known[name], ignore_index=UNKNOWN)
            for name, head in self.heads.items()
        ]
        return torch.stack(terms).mean()

    def accuracy(self, vectors: Tensor, known: dict[str, Tensor]) -> dict[str, float]:
        """Share read rightly, among those that are known."""
        return {
            name: float((head(vectors).argmax(-1) == known[name])[known[name] != UNKNOWN].float().mean())
            for name, head in self.heads.items()
        }


@dataclass(frozen=True)
class Contrast:
    """The symmetric contrastive loss (Radford et al. 2021, figure 3) at a fixed temperature."""

    scale: float = 15.0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """`first`, `second`: (B, width), of unit length; the i-th belong together."""
        logits, own = self.scale * first @ second.T, torch.arange(len(first))
        return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2

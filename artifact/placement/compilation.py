"""How the predictor compiles the denoiser's blocks, and which LoRAs they are compiled for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from artifact.artifact import Artifact
from artifact.layers import GatedLayer, LoraLayer, TimedLoraLayer
from families.family import ModelFamily
from families.parts.compiled_blocks import CompiledBlocks

USUAL_RANK = 64


@dataclass(frozen=True)
class Compilation:
    """`cache`: a folder that keeps what was compiled for later processes; None: torch's own. `rank`: all LoRAs are
    padded to it with zeros, so that one compilation serves all up to it. `backend`: torch.compile's."""

    cache: Path | None = None
    rank: int = USUAL_RANK
    backend: str = "inductor"


class CompiledDrawing:
    """Draws with compiled blocks where the LoRAs in place allow it."""

    def __init__(self, family: ModelFamily, compilation: Compilation) -> None:
        """Forgets what was compiled for another base. Raises ValueError where the denoiser has no repeated blocks."""
        torch._dynamo.reset()
        self._rank = compilation.rank
        self._blocks = CompiledBlocks(family.denoiser, compilation.backend, compilation.cache)

    def obstacle(self, artifacts: Sequence[Artifact]) -> str | None:
        """Why these LoRAs are drawn without compilation, in words; None where they are not."""
        layers = [layer for artifact in artifacts for layer in artifact.layers.values()]
        if any(isinstance(layer, GatedLayer) for layer in layers):
            return "edits of Perfusion are hooks, which compiled blocks do not see"
        if any(isinstance(layer, TimedLoraLayer) for layer in layers):
            return "components of a LoRA that act at some timesteps alone are chosen anew in each step"
        linear = (layer for layer in layers if isinstance(layer, LoraLayer) and layer.down.ndim == 2)
        rank = max((layer.rank for layer in linear), default=0)
        if rank > self._rank:
            return f"a LoRA of rank {rank} is above COMPILE_RANK={self._rank}, which the operator can raise"
        return None

    @contextmanager
    def in_use(self, artifacts: Sequence[Artifact]) -> Iterator[None]:
        """Draw with compiled blocks inside this context, where these LoRAs, which are in place, allow it."""
        if self.obstacle(artifacts) is not None:
            yield
            return
        with self._blocks.in_use():
            yield

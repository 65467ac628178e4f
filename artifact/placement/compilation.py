"""Compilation of the denoiser's blocks in the predictor, and the LoRAs that it supports."""

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
    """Options of the compilation. `cache`: a folder for compiled code that persists between processes; None: torch's
    default. `rank`: all LoRAs are padded with zeros to this rank, so that one compilation supports all lower ranks.
    `backend`: of torch.compile."""

    cache: Path | None = None
    rank: int = USUAL_RANK
    backend: str = "inductor"


class CompiledDrawing:
    """Samples with compiled blocks if the loaded LoRAs support it."""

    def __init__(self, family: ModelFamily, compilation: Compilation) -> None:
        """Discards code compiled for another base model. Raises ValueError if the denoiser has no repeated blocks."""
        torch._dynamo.reset()
        self._rank = compilation.rank
        self._blocks = CompiledBlocks(family.denoiser, compilation.backend, compilation.cache)

    def obstacle(self, artifacts: Sequence[Artifact]) -> str | None:
        """Return the reason why these LoRAs cannot be used with compiled blocks; None if they can."""
        layers = [layer for artifact in artifacts for layer in artifact.layers.values()]
        if any(isinstance(layer, GatedLayer) for layer in layers):
            return "Perfusion uses hooks, which compiled blocks do not run"
        if any(isinstance(layer, TimedLoraLayer) for layer in layers):
            return "a LoRA that is limited to some timesteps changes its components in each step"
        linear = (layer for layer in layers if isinstance(layer, LoraLayer) and layer.down.ndim == 2)
        rank = max((layer.rank for layer in linear), default=0)
        if rank > self._rank:
            return f"a LoRA of rank {rank} is above COMPILE_RANK={self._rank}, which the operator can raise"
        return None

    @contextmanager
    def in_use(self, artifacts: Sequence[Artifact]) -> Iterator[None]:
        """Use the compiled blocks inside this context, if these loaded LoRAs support it."""
        if self.obstacle(artifacts) is not None:
            yield
            return
        with self._blocks.in_use():
            yield

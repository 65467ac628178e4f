"""Applies a file to a sharded denoiser: every process changes its own rows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from artifact.artifact import Artifact
from artifact.layers import Layer
from artifact.names.components import DENOISER
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import resolve_layers
from families.family import ModelFamily
from trainer.distributed.on_every_rank import AdapterOnEveryRank


def without_denoiser(file: Artifact, family: ModelFamily) -> tuple[Artifact, dict[str, Layer]]:
    """Return the file without the denoiser's layers, and these by their paths. Raises ArtifactError as placing does."""
    slots = LoraSlots(family)
    layers = {place.path: layer for place, layer in resolve_layers(file, slots).items() if place.component == DENOISER}
    others = {name: layer for name, layer in file.layers.items() if slots.places[name].component != DENOISER}
    return replace(file, layers=others), layers


@contextmanager
def on_shards(tuning: AdapterOnEveryRank, layers: Mapping[str, Layer]) -> Iterator[None]:
    """Apply these layers to the base model's weights inside this context, and restore the weights after it."""
    tuning.start_over()
    try:
        for path, layer in layers.items():
            tuning.start(path, layer)
        yield
    finally:
        tuning.remove()

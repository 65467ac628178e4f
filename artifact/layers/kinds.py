"""Detects the kind of a layer by its keys in the file."""

from collections.abc import Mapping

from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.dora import DoraLayer
from artifact.layers.factored import ALPHA
from artifact.layers.full import FullLayer
from artifact.layers.gated import GatedLayer
from artifact.layers.layer import Layer
from artifact.layers.loha import LohaLayer
from artifact.layers.lokr import LokrLayer
from artifact.layers.lora import LoraLayer
from artifact.layers.oft import OftLayer
from artifact.layers.timed_lora import TimedLoraLayer

KINDS: Mapping[str, type[Layer]] = {
    kind.kind: kind
    for kind in (DoraLayer, TimedLoraLayer, LoraLayer, LohaLayer, LokrLayer, OftLayer, FullLayer, GatedLayer)
}
"""Layer classes by name. DoRA and timed LoRA are first, since their layers also have the keys of another
kind."""

KEYS = tuple({key: None for kind in KINDS.values() for key in (*kind.keys, ALPHA)})
"""All keys that a layer may have."""


def layer_from_tensors(tensors: Mapping[str, Tensor]) -> Layer:
    """Build the layer from a module's tensors by key. Raises ArtifactError, whose message must follow the module's
    name."""
    for kind in KINDS.values():
        if kind.keys.keys() & tensors.keys():
            return kind.from_tensors(tensors)
    raise ArtifactError(f"has {', '.join(sorted(tensors)[:3])}, which is not a complete layer of any kind")

"""What a LoRA file can hold for one module: a record for each kind, with the change of the weight that it means.

Shapes: weight (out, in) or (out, in, kh, kw), r the rank. A record's `tensors` are named as kohya and LyCORIS name
them. `delta(weight)` is fp32 and has the shape of the weight, which is what the bare base holds.
"""

from artifact.layers.dora import DoraLayer
from artifact.layers.full import FullLayer
from artifact.layers.kinds import KEYS, KINDS, layer_from_tensors
from artifact.layers.layer import Layer
from artifact.layers.loha import LohaLayer
from artifact.layers.lokr import LokrLayer
from artifact.layers.lora import LoraLayer
from artifact.layers.oft import OftLayer

__all__ = [
    "KEYS",
    "KINDS",
    "DoraLayer",
    "FullLayer",
    "Layer",
    "LohaLayer",
    "LokrLayer",
    "LoraLayer",
    "OftLayer",
    "layer_from_tensors",
]

"""Layers of a LoRA file: one class per kind, which computes the change of a weight.

Shapes: weight (out, in) or (out, in, kh, kw), r the rank. Keys of `tensors` are those of kohya and LyCORIS.
`delta(weight)` is fp32 and has the shape of `weight`, which is the base's own weight.
"""

from artifact.layers.dora import DoraLayer
from artifact.layers.full import FullLayer
from artifact.layers.gated import Gate, GatedLayer
from artifact.layers.kinds import KEYS, KINDS, layer_from_tensors
from artifact.layers.layer import Layer
from artifact.layers.loha import LohaLayer
from artifact.layers.lokr import LokrLayer
from artifact.layers.lora import LoraLayer
from artifact.layers.oft import OftLayer
from artifact.layers.timed_lora import TimedLoraLayer

__all__ = [
    "KEYS",
    "KINDS",
    "DoraLayer",
    "FullLayer",
    "Gate",
    "GatedLayer",
    "Layer",
    "LohaLayer",
    "LokrLayer",
    "LoraLayer",
    "OftLayer",
    "TimedLoraLayer",
    "layer_from_tensors",
]

"""Combines repeated LoRAs into one, at the sum of the scales."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from artifact.artifact import Artifact
from sampler.weights import ScaledArtifact


def merge_duplicates(loras: Sequence[ScaledArtifact]) -> tuple[list[ScaledArtifact], list[str]]:
    """Return each LoRA once, at the sum of its scales, and a note for each LoRA that was given more than once.

    Two LoRAs are equal when their tensors and trigger words are, whatever their names.
    """
    merged: list[ScaledArtifact] = []
    notes = []
    for lora in loras:
        same = next((index for index, other in enumerate(merged) if same_lora(other.artifact, lora.artifact)), None)
        if same is None:
            merged.append(lora)
            continue
        first = merged[same]
        merged[same] = replace(first, scale=first.scale + lora.scale)
        notes.append(
            f"lora: {lora.name} is the same LoRA as {first.name}: it is used once, at the sum of the scales, "
            f"{first.scale:g} + {lora.scale:g} = {merged[same].scale:g}"
        )
    return merged, notes


def same_lora(one: Artifact, other: Artifact) -> bool:
    """Whether tensors, alphas and trigger words of two LoRAs are equal."""
    if one is other:
        return True
    if dict(one.triggers) != dict(other.triggers) or one.layers.keys() != other.layers.keys():
        return False
    return _equal(one.tokens, other.tokens) and all(
        type(layer) is type(other.layers[name])
        and layer.alpha == other.layers[name].alpha
        and _equal(layer.tensors(), other.layers[name].tensors())
        for name, layer in one.layers.items()
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())

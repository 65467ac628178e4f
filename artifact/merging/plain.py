"""Plain LoRA layers with the scale folded in, and the header of a file of such layers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from artifact.merging.low_rank import Fit, relative_error

NETWORK_KEYS = ("modelspec.", "ss_")
"""Header keys that are kept. This program's own description would be wrong for a merged or resized file."""


@dataclass(frozen=True)
class Outcome:
    """The quality of the written file. `left_out`: changes that it cannot represent, a sentence each."""

    fits: Sequence[Fit]
    left_out: Sequence[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """√(Σ‖ΔW - ΔW'‖² / Σ‖ΔW‖²)."""
        return relative_error(self.fits)

    def __str__(self) -> str:
        return "\n".join([*([f"relative error {self.error:.4g}"] if self.fits else []), *self.left_out])


def is_plain(layer: Layer) -> bool:
    """Whether the layer is a product of two matrices, without a Tucker core."""
    return isinstance(layer, LoraLayer) and layer.mid is None


def plain_lora(name: str, layer: Layer, weight: float, remedy: str) -> LoraLayer:
    """Return the layer with weight and scale folded into its up projection, fp32, so that alpha = rank.

    Raises ArtifactError with the remedy for a layer of another kind.
    """
    if not isinstance(layer, LoraLayer) or layer.mid is not None:
        raise ArtifactError(f"{name} is a {layer.kind} layer, not a plain LoRA. {remedy}")
    return LoraLayer(layer.down.float(), layer.up.float() * (layer.scale * weight), float(layer.rank))


def concatenated(name: str, parts: Sequence[LoraLayer]) -> LoraLayer:
    """Return the exact sum of LoRAs of scale 1. Their ranks add up. Raises ArtifactError where shapes differ."""
    if len({(part.down.shape[1:], part.up.shape[0]) for part in parts}) > 1:
        raise ArtifactError(f"{name} has different shapes in the files. They must be trained on the same base model.")
    down, up = torch.cat([part.down for part in parts]), torch.cat([part.up for part in parts], dim=1)
    return LoraLayer(down, up, float(len(down)))


def squared_norm(layer: LoraLayer) -> float:
    """Return ‖up · down‖² at scale 1, computed without the product as tr((upᵀ up)(down downᵀ))."""
    up, down = layer.up.flatten(1).double(), layer.down.flatten(1).double()
    return float(((up.T @ up) * (down @ down.T)).sum())


def at_rank(name: str, layer: LoraLayer, rank: int) -> tuple[LoraLayer, Fit]:
    """Return the best approximation of a LoRA of scale 1. Only its (r, r) core is decomposed."""
    left, upper = torch.linalg.qr(layer.up.flatten(1).double())
    right, lower = torch.linalg.qr(layer.down.flatten(1).double().T)
    u, values, vh = torch.linalg.svd(upper @ lower.T)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    up, down = (left @ u)[:, :rank] * root, (vh @ right.T)[:rank] * root[:, None]
    shapes = (rank, *layer.down.shape[1:]), (layer.up.shape[0], rank, *layer.up.shape[2:])
    squares = values**2
    fit = Fit(name, float(squares.sum()), float(squares[rank:].sum()))
    return LoraLayer(down.reshape(shapes[0]).float(), up.reshape(shapes[1]).float(), float(rank)), fit


def network_header(header: Mapping[str, str], layers: Mapping[str, Layer]) -> dict[str, str]:
    """Return other tools' keys of `header`, describing a plain LoRA of these layers."""
    rank = max((layer.rank for layer in layers.values() if layer.rank is not None), default=0)
    described = {key: value for key, value in header.items() if key.startswith(NETWORK_KEYS)}
    described.pop("modelspec.hash_sha256", None)
    return described | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_network_args": json.dumps({}),
    }

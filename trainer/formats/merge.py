"""Several LoRAs as one, and a LoRA at another rank."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from trainer.formats.files import LoraFile, require_free, write_layers
from trainer.formats.module_names import ModuleName, Naming, parse, written

NETWORK_KEYS = ("modelspec.", "ss_")
"""What stays of a header: our own description would claim one run's numbers and tokens for a file of several."""


def merge(sources: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """Write the sum of plain LoRAs, each times its weight, exactly: the ranks add up (concatenation).

    Raises ArtifactError when a layer is no plain LoRA, shapes differ, or the counts do not match.
    """
    require_free(target)
    if len(weights) != len(sources):
        raise ArtifactError(f"--weights: {len(weights)} numbers for {len(sources)} files; give one for each")
    files = [LoraFile.read(source) for source in sources]
    families = sorted({file.family for file in files})
    if len(families) > 1:
        raise ArtifactError(f"the files are for different families, {' and '.join(families)}: they have no sum")
    parts: dict[ModuleName, list[LoraLayer]] = {}
    for file, weight in zip(files, weights, strict=True):
        for name, layer in file.artifact.layers.items():
            parts.setdefault(parse(name), []).append(_weighted(name, layer, weight))
    naming: Naming = "diffusers" if families[0] == "sd3" else "kohya"
    merged = {written(module, naming, families[0]): _concatenated(module, part) for module, part in parts.items()}
    header = {
        **_network_header(files[0].header, merged),
        "modelspec.merged_from": ", ".join(source.name for source in sources),
    }
    write_layers(merged, header, target)


def resize(source: Path, target: Path, rank: int) -> float:
    """Write `source` at another rank, by the singular values of each layer's change. The alpha equals the rank.

    Gives the relative error √(Σ‖ΔW - ΔW'‖² / Σ‖ΔW‖²), which no file of that rank can undercut (Eckart and Young 1936).
    Raises ArtifactError for layers that are no plain LoRA.
    """
    require_free(target)
    if rank < 1:
        raise ArtifactError(f"--rank: {rank} must be at least 1")
    file = LoraFile.read(source)
    lost = kept = 0.0
    layers: dict[str, LoraLayer] = {}
    for name, layer in file.artifact.layers.items():
        layers[name], squares = _at_rank(_weighted(name, layer, 1.0), rank)
        kept += float(squares[:rank].sum())
        lost += float(squares[rank:].sum())
    header = {**file.header, **_network_header(file.header, layers)}
    write_layers(layers, header, target)
    return (lost / (kept + lost)) ** 0.5 if kept + lost else 0.0


def _weighted(name: str, layer: Layer, weight: float) -> LoraLayer:
    """The layer with weight and alpha in its up projection, fp32, so that alpha is the rank."""
    if not isinstance(layer, LoraLayer) or layer.mid is not None:
        raise ArtifactError(f"{name} is a {layer.kind} layer; plain LoRA layers can be merged and resized")
    return LoraLayer(layer.down.float(), layer.up.float() * (layer.scale * weight), float(layer.rank))


def _concatenated(module: ModuleName, parts: Sequence[LoraLayer]) -> LoraLayer:
    if len({(part.down.shape[1:], part.up.shape[0]) for part in parts}) > 1:
        raise ArtifactError(f"{module.component}.{module.path} has different shapes in the files: different bases?")
    down, up = torch.cat([part.down for part in parts]), torch.cat([part.up for part in parts], dim=1)
    return LoraLayer(down, up, float(len(down)))


def _at_rank(layer: LoraLayer, rank: int) -> tuple[LoraLayer, Tensor]:
    """The best approximation, and the squared singular values. Never more than the (r, r) core is decomposed."""
    left, upper = torch.linalg.qr(layer.up.flatten(1).double())
    right, lower = torch.linalg.qr(layer.down.flatten(1).double().T)
    u, values, vh = torch.linalg.svd(upper @ lower.T)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    up, down = (left @ u)[:, :rank] * root, (vh @ right.T)[:rank] * root[:, None]
    shapes = (rank, *layer.down.shape[1:]), (layer.up.shape[0], rank, *layer.up.shape[2:])
    return LoraLayer(down.reshape(shapes[0]).float(), up.reshape(shapes[1]).float(), float(rank)), values**2


def _network_header(header: Mapping[str, str], layers: Mapping[str, LoraLayer]) -> dict[str, str]:
    rank = max(layer.rank for layer in layers.values())
    described = {key: value for key, value in header.items() if key.startswith(NETWORK_KEYS)}
    described.pop("modelspec.hash_sha256", None)
    return described | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_network_args": json.dumps({}),
    }

"""Reads and writes `weights.safetensors`: a plain kohya LoRA whose header carries all the rest."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.metadata import ArtifactDescription, from_header, to_header

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
DOWN_SUFFIXES = (".lora_down.weight", ".lora_A.weight")
UP_SUFFIXES = (".lora_up.weight", ".lora_B.weight")
ALPHA_SUFFIX = ".alpha"


@dataclass(frozen=True)
class LoraLayer:
    """ΔW = alpha / r · up · down. `down`: (r, in) or (r, in, kh, kw). `up`: (out, r) or (out, r, 1, 1)."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


@dataclass(frozen=True)
class Artifact:
    """`layers` by the file's own module names, `tokens` (n, d) by encoder name. Foreign files have no description."""

    layers: Mapping[str, LoraLayer]
    tokens: Mapping[str, Tensor]
    description: ArtifactDescription | None

    @classmethod
    def read(cls, path: Path) -> "Artifact":
        """Read a kohya or peft LoRA file, ours or another tool's.

        Raises ArtifactError when it is no safetensors file, or holds tensors that are no LoRA's.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"{path.name}: not a readable .safetensors file ({error})") from error
        description, tokens = from_header(header)
        return cls(_layers(tensors, path.name), tokens, description)

    def write(self, path: Path, precision: str, *, architecture: str, base_model_version: str) -> None:
        """Write the file in one go: it is there whole or not at all. `precision`: fp16, bf16 or fp32, of the LoRA.

        Raises ArtifactError when a value is not finite, as it is or in that precision.
        """
        assert self.description is not None
        tensors: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.lora_down.weight"] = layer.down.to(PRECISIONS[precision]).cpu().contiguous()
            tensors[f"{name}.lora_up.weight"] = layer.up.to(PRECISIONS[precision]).cpu().contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=PRECISIONS[precision])
        for name, tensor in (*tensors.items(), *self.tokens.items()):
            if not torch.isfinite(tensor).all():
                raise ArtifactError(f"{path.name}: {name} holds values that are not finite; nothing was written")
        (rank, alpha), _ = Counter((layer.rank, layer.alpha) for layer in self.layers.values()).most_common(1)[0]
        header = to_header(
            self.description,
            self.tokens,
            rank=rank,
            alpha=alpha,
            architecture=architecture,
            base_model_version=base_model_version,
        )
        _save_atomically(tensors, path, header)

    def write_embeddings(self, path: Path) -> None:
        """Write the tokens for tools that take them as a file: `clip_l` (n, 768), `clip_g` (n, 1280) in SDXL."""
        _save_atomically({name: rows.float().contiguous() for name, rows in self.tokens.items()}, path, {})


def _save_atomically(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    save_file(tensors, unfinished, metadata=header)
    os.replace(unfinished, path)


def _layers(tensors: Mapping[str, Tensor], file: str) -> dict[str, LoraLayer]:
    """Group a file's tensors into layers. Every tensor must belong to one."""
    downs = {name: key for key in tensors if (name := _without(key, DOWN_SUFFIXES))}
    ups = {name: key for key in tensors if (name := _without(key, UP_SUFFIXES))}
    known = {*downs.values(), *ups.values(), *(name + ALPHA_SUFFIX for name in downs)}
    strange = sorted(set(tensors) - known)
    if strange or downs.keys() != ups.keys() or not downs:
        odd = strange or sorted(downs.keys() ^ ups.keys()) or ["no LoRA tensors at all"]
        raise ArtifactError(
            f"{file}: not a plain LoRA: {', '.join(odd[:3])}{' …' if len(odd) > 3 else ''}. "
            "Kohya and diffusers (peft) LoRA files are read."
        )
    layers: dict[str, LoraLayer] = {}
    for name, key in downs.items():
        down, up = tensors[key], tensors[ups[name]]
        alpha = float(tensors[name + ALPHA_SUFFIX]) if name + ALPHA_SUFFIX in tensors else float(down.shape[0])
        if down.ndim < 2 or up.ndim < 2 or down.shape[0] != up.shape[1]:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise ArtifactError(f"{file}: {name} has shapes {shapes}, which are no LoRA")
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise ArtifactError(f"{file}: {name} holds values that are not finite")
        layers[name] = LoraLayer(down, up, alpha)
    return layers


def _without(key: str, suffixes: tuple[str, ...]) -> str | None:
    return next((key.removesuffix(suffix) for suffix in suffixes if key.endswith(suffix)), None)

"""Reads and writes `weights.safetensors`: a plain LoRA, kohya's or peft's, whose header carries all the rest."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layer_keys import layers_from_tensors, named_tensors
from artifact.layers import Layer
from artifact.metadata import ArtifactDescription, from_header, to_header

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
EXACT = (".alpha", ".dora_scale", ".lora_magnitude_vector")
"""Keys that are kept in fp32: rounding them would scale a whole layer, or a whole weight."""
MAX_TENSORS = 20_000
"""SDXL has some 1,100 layers that a LoRA can change; LoKr has the most tensors a layer, six."""


@dataclass(frozen=True)
class Artifact:
    """`layers` by the file's own module names, `tokens` (n, d) by encoder name. Foreign files have no description."""

    layers: Mapping[str, Layer]
    tokens: Mapping[str, Tensor]
    description: ArtifactDescription | None

    @classmethod
    def read(cls, path: Path) -> "Artifact":
        """Read a LoRA, DoRA, LoHa, LoKr or difference file in kohya's or peft's names, ours or another tool's.

        Raises ArtifactError when it is no safetensors file, or holds tensors that belong to none of these.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                names = list(file.keys())
                if len(names) > MAX_TENSORS:
                    raise ArtifactError(f"{path.name}: {len(names):,} tensors are more than any LoRA has")
                tensors = {name: file.get_tensor(name) for name in names}
        except ArtifactError:
            raise
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"{path.name}: not a readable .safetensors file ({error})") from error
        description, tokens = from_header(header)
        layers = layers_from_tensors(tensors, path.name) if tensors or not tokens else {}  # tokens may be all there is
        return cls(layers, tokens, description)

    def write(self, path: Path, precision: str, *, architecture: str, base_model_version: str) -> None:
        """Write the file in one go: it is there whole or not at all. `precision`: fp16, bf16 or fp32, of the LoRA.

        Raises ArtifactError when a value is not finite, as it is or in that precision.
        """
        assert self.description is not None
        tensors = self.tensors(PRECISIONS[precision])
        for name, tensor in (*tensors.items(), *self.tokens.items()):
            if not torch.isfinite(tensor).all():
                raise ArtifactError(f"{path.name}: {name} holds values that are not finite; nothing was written")
        header = to_header(
            self.description,
            self.tokens,
            self.layers.values(),
            architecture=architecture,
            base_model_version=base_model_version,
        )
        _save_atomically(tensors, path, header)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The layers as the file has them, on the CPU: `dtype`, but fp32 for alpha and dora_scale."""
        return {
            key: tensor.to("cpu", torch.float32 if key.endswith(EXACT) else dtype).contiguous()
            for name, layer in self.layers.items()
            for key, tensor in named_tensors(name, layer).items()
        }

    def write_embeddings(self, path: Path) -> None:
        """Write the tokens for tools that take them as a file: `clip_l` (n, 768), `clip_g` (n, 1280) in SDXL."""
        _save_atomically({name: rows.float().contiguous() for name, rows in self.tokens.items()}, path, {})


def _save_atomically(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    save_file(tensors, unfinished, metadata=header)
    os.replace(unfinished, path)

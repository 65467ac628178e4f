"""Reads weights of any tool and writes `weights.safetensors`, a LoRA whose header holds tokens and metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from artifact.contents import FileContents, read_contents
from artifact.errors import ArtifactError
from artifact.layers import Layer
from artifact.metadata import ArtifactDescription, own_header, to_header
from artifact.names.layer_keys import named_tensors
from artifact.safetensors_file import write_safetensors

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
EXACT = (".alpha", ".dora_scale", ".lora_magnitude_vector")
"""Keys that are kept in fp32: rounding them would scale a whole layer, or a whole weight."""


@dataclass(frozen=True)
class Artifact:
    """`layers` by the file's own module names, `tokens` (n, d) by encoder name.

    Foreign files have no description, but `words` where they have tokens.
    """

    layers: Mapping[str, Layer]
    tokens: Mapping[str, Tensor]
    description: ArtifactDescription | None
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def triggers(self) -> Mapping[str, Sequence[str]]:
        """Placeholder tokens by trigger word, in the order of the rows."""
        return self.words if self.description is None else self.description.triggers

    @classmethod
    def read(cls, path: Path, word: str | None = None) -> "Artifact":
        """Read weights of ours or another tool's: a LoRA of any kind, cog-sdxl's tar, or embeddings alone.

        word: the trigger word of embeddings that name none, by default the file's name.

        Raises ArtifactError when it is none of these, or inconsistent.
        """
        return cls.of(read_contents(path, word))

    @classmethod
    def of(cls, contents: FileContents) -> "Artifact":
        """What was read from a file."""
        words = {} if contents.description else contents.tokens.triggers
        return cls(contents.layers, contents.tokens.rows, contents.description, words)

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
        write_safetensors(tensors, path, header)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The layers as the file has them, on the CPU: `dtype`, but fp32 for alpha and dora_scale."""
        return {
            key: tensor.to("cpu", torch.float32 if key.endswith(EXACT) else dtype).contiguous()
            for name, layer in self.layers.items()
            for key, tensor in named_tensors(name, layer).items()
        }

    def write_embeddings(self, path: Path) -> None:
        """Write the tokens for tools that take them as a file: `clip_l` (n, 768), `clip_g` (n, 1280) in SDXL.

        Our own description goes along, so that this program knows their words.
        """
        header = own_header(self.description) if self.description else {}
        write_safetensors({name: rows.float().contiguous() for name, rows in self.tokens.items()}, path, header)

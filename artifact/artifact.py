"""Reads weights of any tool and writes `weights.safetensors`, a LoRA with tokens and metadata in its header."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from artifact.contents import FileContents, read_contents
from artifact.errors import ArtifactError
from artifact.gate_header import gate_header
from artifact.layers import Layer
from artifact.metadata import ArtifactDescription, own_header, to_header
from artifact.names.layer_keys import named_tensors
from artifact.safetensors_file import write_safetensors

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
EXACT = (".alpha", ".dora_scale", ".lora_magnitude_vector", ".lora_times")
"""Keys that are stored in fp32: rounding them would scale a whole layer or a whole weight, or move a timestep."""


@dataclass(frozen=True)
class Artifact:
    """The contents of a LoRA file. `layers` by the module names in the file, `tokens` (n, d) by encoder name.

    Files of other tools have no `description`, but `words` when they contain tokens.
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
        """Read weights of this or another tool: a LoRA of any kind, cog-sdxl's tar, or embeddings alone.

        `word`: the trigger word of embeddings without one; None: the file's name. Raises ArtifactError for any other or
        inconsistent file.
        """
        return cls.of(read_contents(path, word))

    @classmethod
    def of(cls, contents: FileContents) -> "Artifact":
        """Build the artifact from the contents of a file."""
        words = {} if contents.description else contents.tokens.triggers
        return cls(contents.layers, contents.tokens.rows, contents.description, words)

    def write(self, path: Path, precision: str, *, architecture: str, base_model_version: str) -> None:
        """Write the file atomically. `precision`: fp16, bf16 or fp32, of the LoRA's weights.

        Raises ArtifactError when a value is not finite, as it is or in that precision.
        """
        assert self.description is not None
        tensors = self.tensors(PRECISIONS[precision])
        for name, tensor in (*tensors.items(), *self.tokens.items()):
            if not torch.isfinite(tensor).all():
                raise ArtifactError(f"{path.name}: {name} contains values that are not finite; nothing was written")
        header = to_header(
            self.description,
            self.tokens,
            self.layers.values(),
            architecture=architecture,
            base_model_version=base_model_version,
        )
        write_safetensors(tensors, path, header | gate_header(self.layers.values()))

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the layers' tensors as in the file, on the CPU: in `dtype`, but fp32 for alpha and dora_scale."""
        return {
            key: tensor.to("cpu", torch.float32 if key.endswith(EXACT) else dtype).contiguous()
            for name, layer in self.layers.items()
            for key, tensor in named_tensors(name, layer).items()
        }

    def write_embeddings(self, path: Path) -> None:
        """Write the tokens for tools that load embeddings: `clip_l` (n, 768), `clip_g` (n, 1280) in SDXL.

        The header contains the description, so that this program can read the trigger words.
        """
        header = own_header(self.description) if self.description else {}
        write_safetensors({name: rows.float().contiguous() for name, rows in self.tokens.items()}, path, header)

"""A LoRA file with its complete header. Existing files are never overwritten."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifact.artifact import EXACT, Artifact
from artifact.contents import Form, read_contents
from artifact.conversion.module_names import parse
from artifact.errors import ArtifactError
from artifact.layers import GatedLayer, Layer
from artifact.layers.gated import NO_CHANGE
from artifact.metadata import TOKENS_KEY, TRIGGERS_KEY, rows_header, words_header
from artifact.names.layer_keys import named_tensors
from artifact.names.peft_metadata import METADATA_KEY
from artifact.safetensors_file import write_safetensors
from families.lora_files import family_of_encoders, family_of_header, family_of_modules

HELD_ELSEWHERE = (TOKENS_KEY, TRIGGERS_KEY, METADATA_KEY)
"""Header keys whose contents are part of the artifact: tokens, and alphas, which would count twice after folding."""


@dataclass(frozen=True)
class LoraFile:
    """`artifact`: the parsed contents. `header`: all other strings of the file's header."""

    artifact: Artifact
    header: Mapping[str, str]
    form: Form

    @classmethod
    def read(cls, path: Path) -> "LoraFile":
        """Read a file. Raises ArtifactError when it is missing or contains neither LoRA nor embeddings."""
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist, or is not a file")
        contents = read_contents(path)
        header = {key: value for key, value in contents.header.items() if key not in HELD_ELSEWHERE}
        return cls(Artifact.of(contents), header, contents.form)

    @property
    def family(self) -> str:
        """The family by the header (of this or another tool), else by the layer names.

        Raises ArtifactError for names of no known tool.
        """
        if self.artifact.description is not None:
            return self.artifact.description.family
        said = [self.header.get(key, "").lower() for key in ("modelspec.architecture", "ss_base_model_version")]
        if (named := family_of_header(said)) is not None:
            return named
        if not self.artifact.layers:
            return family_of_encoders(self.artifact.tokens.keys())
        return family_of_modules(parse(name) for name in self.artifact.layers)

    @property
    def header_with_tokens(self) -> dict[str, str]:
        """The complete header of a LoRA file."""
        tokens = self.artifact.tokens
        if self.artifact.description is not None:
            return {**self.header, TOKENS_KEY: rows_header(tokens)}
        return {**self.header, **words_header(self.artifact.triggers, tokens)}

    @property
    def header_with_words(self) -> dict[str, str]:
        """The header of a file that stores the tokens' rows as tensors."""
        words = {} if self.artifact.description else words_header(self.artifact.triggers, self.artifact.tokens)
        words.pop(TOKENS_KEY, None)
        return {**self.header, **words}


def require_free(path: Path) -> None:
    """Raises ArtifactError when `path` exists."""
    if path.exists():
        raise ArtifactError(f"{path} already exists; existing files are not overwritten. Choose another name.")


def require_change_of_weights(file: LoraFile, path: Path) -> None:
    """Raises ArtifactError for a file of Perfusion, which changes no weights."""
    if any(isinstance(layer, GatedLayer) for layer in file.artifact.layers.values()):
        raise ArtifactError(f"{path.name} {NO_CHANGE}")


def write_layers(layers: Mapping[str, Layer], header: Mapping[str, str], path: Path) -> None:
    """Write layers under their names, in their precision.

    Weights with a folded-in scale keep their dtype when that loses no bit, and are fp32 otherwise. Raises ArtifactError
    when the path exists or a value is not finite.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        stored = layer.parameters[0].dtype
        for key, tensor in named_tensors(name, layer).items():
            narrow = tensor if key.endswith(EXACT) else tensor.to(stored)
            tensors[key] = narrow if torch.equal(narrow.float(), tensor.float()) else tensor.float()
    write_tensors(tensors, header, path)


def write_tensors(tensors: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> None:
    """Write the file atomically. Raises ArtifactError when the path exists or a value is not finite."""
    require_free(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path.name}: {name} would not be finite; nothing was written")
    write_safetensors({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, header)

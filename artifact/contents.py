"""The contents of a weights file of any tool: layers, trigger words and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from artifact.cog_sdxl_tar import is_tar, read_cog_sdxl
from artifact.gate_header import with_gate
from artifact.layers import Layer
from artifact.metadata import ArtifactDescription, from_header
from artifact.names import flux_blocks, joint_blocks, prior_positions, qwen_blocks, z_image_blocks
from artifact.names.layer_keys import layers_from_tensors
from artifact.names.peft_metadata import with_alphas
from artifact.safetensors_file import read_safetensors
from artifact.words import BUNDLE, Tokens, split_words, with_header_words

Form = Literal["LoRA", "LoRA with bundled embeddings", "embeddings alone", "tar as cog-sdxl writes"]


@dataclass(frozen=True)
class FileContents:
    """`header`: the whole header. `description`: of files by this program. `tokens`: trigger words and their rows."""

    form: Form
    header: Mapping[str, str]
    layers: Mapping[str, Layer]
    tokens: Tokens
    description: ArtifactDescription | None


def read_contents(path: Path, word: str | None = None) -> FileContents:
    """Read a LoRA of any kind, cog-sdxl's tar of one, or embeddings alone.

    `word`: the trigger word of embeddings without one; None: the file's name. Raises ArtifactError for any other or
    inconsistent file.
    """
    form: Form
    if is_tar(path):
        form = "tar as cog-sdxl writes"
        (header, tensors), words = read_cog_sdxl(path)
    else:
        header, found = read_safetensors(path)
        found = prior_positions.with_names(found, path.name)
        tensors, words = split_words(found, path.stem if word is None else word, path.name)
        bundled = any(key.startswith(BUNDLE) for key in found)
        form = "LoRA with bundled embeddings" if bundled else "LoRA" if tensors or not words else "embeddings alone"
    description, tokens = from_header(header)
    if words:
        apart = form != "embeddings alone"
        tokens = with_header_words(words, tokens, apart=apart, file=path.name)
    # a file may contain only tokens
    layers = layers_from_tensors(tensors, path.name) if tensors or not tokens.rows else {}
    layers = with_gate(layers, header, path.name)
    return FileContents(form, header, _with_diffusers_names(with_alphas(layers, header)), tokens, description)


def _with_diffusers_names(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    named = dict(layers)
    for family in (joint_blocks, flux_blocks, qwen_blocks, z_image_blocks):
        named = family.with_diffusers_names(named)
    return named

"""Writes trigger words into the tokenizers and embedding tables of a base in diffusers' layout."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.names.components import text_encoders
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import distinct_triggers, place_tokens
from artifact.safetensors_file import write_safetensors
from families.family import ModelFamily
from families.parts.placeholder_tokens import first_free_placeholder

TABLES = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")
"""Suffixes of the names of embedding tables in transformers' files."""


@dataclass(frozen=True)
class WordsOfEncoder:
    """`ids` (n) of the new tokens in `tokenizer`, and their `rows` (n, d), fp32."""

    tokenizer: Any
    ids: Sequence[int]
    rows: Tensor


@dataclass(frozen=True)
class WordsInside:
    """The words of some files for a folder, by the name of the text encoder: `text_encoder`, `text_encoder_2` ….

    `notes`: how each word is to be written in prompts.
    """

    encoders: Mapping[str, WordsOfEncoder] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, artifacts: Sequence[Artifact], family: ModelFamily) -> "WordsInside":
        """Raises ArtifactError where words do not fit the base. The base is the same afterwards."""
        triggers, _, renamed, names = distinct_triggers(artifacts, first_free_placeholder(family))
        placed = place_tokens(family, artifacts, names, LoraSlots(family))
        if placed is None:
            return cls(notes=renamed)
        try:
            encoders = {}
            for number, (name, encoder) in enumerate(_text_encoders(family)):
                table, ids = encoder.get_input_embeddings().weight.detach(), placed.ids[number]
                encoders[name] = WordsOfEncoder(family.tokenizers[number], ids, table[ids].float().cpu())
        finally:
            placed.remove()
        inside = [f"{word} is in the model as {''.join(tokens)}" for word, tokens in triggers.items() if tokens]
        return cls(encoders, [*renamed, *inside])

    def write(self, folder: Path) -> None:
        """Add the words to a folder in diffusers' layout. Raises ArtifactError where an embedding table is not found,
        or a row overflows in its precision."""
        for name, words in self.encoders.items():
            words.tokenizer.save_pretrained(folder / name.replace("text_encoder", "tokenizer"))
            files = sorted((folder / name).glob("*.safetensors"))
            lengths = [length for path in files for length in _extend(path, words)]
            if not lengths:
                raise ArtifactError(
                    f"{name}: no safetensors file contains its embedding table; trigger words cannot be added"
                )
            _describe(folder / name / "config.json", max(lengths), words.tokenizer.eos_token_id)


def _text_encoders(family: ModelFamily) -> list[tuple[str, Any]]:
    return list(text_encoders(family).items())


def _extend(path: Path, words: WordsOfEncoder) -> list[int]:
    """Write the rows into the file if it contains the embedding table. Returns the new length, or None."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        keys = [key for key in file.keys() if key.endswith(TABLES)]  # noqa: SIM118 (no mapping)
        if not keys:
            return []
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key in keys:
        table = tensors[key]
        longer = table.new_zeros(max(max(words.ids) + 1, len(table)), table.shape[1])
        longer[: len(table)] = table
        longer[list(words.ids)] = words.rows.to(table.dtype)
        if not torch.isfinite(longer[list(words.ids)].float()).all():
            raise ArtifactError(f"{path.parent.name}/{key}: a token embedding would not be finite in {table.dtype}")
        tensors[key] = longer
    write_safetensors(tensors, path, header)
    return [len(tensors[key]) for key in keys]


def _describe(path: Path, length: int, end_of_text: int) -> None:
    """Set the length of the vocabulary. SDXL's configurations have a wrong end-of-text token: readers then use the
    highest id, which is a new token."""
    config = json.loads(path.read_text(encoding="utf-8")) | {"vocab_size": length, "eos_token_id": end_of_text}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

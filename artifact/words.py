"""Reads trigger words and their embeddings from other tools' files.

In a LoRA file: `bundle_emb.<word>.<encoder>` (OneTrainer; A1111 and Forge read it). In an embeddings file: `clip_l` and
`clip_g`, or `emb_params` for a single text encoder; the file's name is then the word.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.safetensors_file import require_finite

Words = Mapping[str, Mapping[str, Tensor]]
"""Rows (n, d) by word and text encoder."""

BUNDLE = "bundle_emb."
SINGLE_ENCODER = ("emb_params", "emp_params", "string_to_param.*")
"""Keys for SD1.5 and SD2: the usual name, OneTrainer's spelling of it, and A1111's in a bundle."""
ENCODERS = ("clip_l", "clip_g", "t5", *SINGLE_ENCODER)
CLIP_H_WIDTH = 1024
LONGEST_WORD = 200


class Tokens(NamedTuple):
    """`triggers`: placeholder tokens by word, numbered <s0>, <s1> …; `rows` (n, d) by encoder, in the order of the
    tokens."""

    triggers: Mapping[str, list[str]]
    rows: Mapping[str, Tensor]


def split_words(tensors: Mapping[str, Tensor], word: str, file: str) -> tuple[dict[str, Tensor], Words]:
    """Split tensors into those that are no embeddings, and embeddings by word. `word`: of a file of embeddings alone.

    Raises ArtifactError naming unsupported embeddings: output embeddings, other types, shapes that are not rows.
    """
    rest, words = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for key, tensor in tensors.items():
        if key.startswith(BUNDLE):
            name, encoder = _bundled(key, file)
        elif key in ENCODERS or key.removesuffix("_out") in ENCODERS:
            name, encoder = word, key
        else:
            rest[key] = tensor
            continue
        if encoder not in ENCODERS:
            raise ArtifactError(
                f"{file}: {key}: supported are embeddings for {', '.join(ENCODERS[:3])}; output embeddings (_out) are "
                "not. Train input embeddings, or load the file in OneTrainer."
            )
        rows = tensor[None] if tensor.ndim == 1 else tensor
        if rows.ndim != 2 or not rows.numel():
            raise ArtifactError(f"{file}: {key} has shape {tuple(tensor.shape)}; expected rows (n, d)")
        encoder = _encoder_name(encoder, rows.shape[1])
        if encoder in words.setdefault(name, {}):
            raise ArtifactError(f"{file}: two sets of embeddings for {encoder} of {name!r}")
        words[name][encoder] = rows
    return rest, words


def as_tokens(words: Words, file: str) -> Tokens:
    """Concatenate the words' rows. Raises ArtifactError for invalid words, or rows missing in a text encoder."""
    triggers, parts, count = dict[str, list[str]](), dict[str, list[Tensor]](), 0
    for word, encoders in words.items():
        if not word.strip() or len(word) > LONGEST_WORD:
            raise ArtifactError(f"{file}: {word[:50]!r} is not a valid trigger word")
        lengths = {len(rows) for rows in encoders.values()}
        if len(lengths) != 1 or encoders.keys() != next(iter(words.values())).keys():
            found = ", ".join(f"{name}: {len(rows)}" for name, rows in encoders.items())
            raise ArtifactError(f"{file}: {word!r} has different numbers of embeddings for the text encoders: {found}")
        length = lengths.pop()
        triggers[word] = [f"<s{count + index}>" for index in range(length)]
        count += length
        for encoder, table in encoders.items():
            require_finite(f"{file}: embeddings of {word!r}", table)
            parts.setdefault(encoder, []).append(table)
    for encoder, tables in parts.items():
        if len({rows.shape[1] for rows in tables}) > 1:
            raise ArtifactError(f"{file}: embeddings of different widths for {encoder}")
    return Tokens(
        triggers, {encoder: torch.cat([rows.float() for rows in tables]) for encoder, tables in parts.items()}
    )


def with_header_words(words: Words, named: Tokens, *, apart: bool, file: str) -> Tokens:
    """Return the file's embeddings under the words of its header (`named`), where that has any.

    `apart`: whether each word's rows are separate; otherwise all rows are in the order of the header's words. Raises
    ArtifactError when header and embeddings contradict each other.
    """
    found = as_tokens(words, file)
    if not named.triggers:
        return found
    counts = {word: len(names) for word, names in named.triggers.items()}
    if apart:
        matching = counts == {word: len(names) for word, names in found.triggers.items()}
    else:
        matching = {len(rows) for rows in found.rows.values()} == {sum(counts.values())}
    if not matching:
        raise ArtifactError(f"{file}: its embeddings do not match the trigger words of its header, {', '.join(counts)}")
    ordered = {word: words[word] for word in counts} if apart else words
    rows = as_tokens(ordered, file).rows
    if named.rows and not _equal(rows, named.rows):
        raise ArtifactError(f"{file}: its embeddings differ from those in its header")
    return Tokens(named.triggers, rows)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _bundled(key: str, file: str) -> tuple[str, str]:
    """Return word and encoder. Words may contain dots, and one encoder's name does."""
    rest = key.removeprefix(BUNDLE)
    if rest.endswith(".string_to_param.*"):
        return rest.removesuffix(".string_to_param.*"), "string_to_param.*"
    word, point, encoder = rest.rpartition(".")
    if not point:
        raise ArtifactError(f"{file}: {key} does not name a text encoder")
    return word, encoder


def _encoder_name(key: str, width: int) -> str:
    """Return the encoder's name. SD2's OpenCLIP ViT-H differs from SD1.5's by its width, and tools use one
    key for both."""
    if key in (*SINGLE_ENCODER, "clip_l"):
        return "clip_h" if width == CLIP_H_WIDTH else "clip_l"
    return key

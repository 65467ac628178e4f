"""Reads LoRA files of Stable Cascade's original code, whose layers have numbers instead of names.

`weights.<i>.lora_down` (r, in) and `weights.<i>.lora_up` (out, r) stand for attention layers: for each block the output
projection, then queries, keys and values as one, which share `lora_down`. The scale is 1 / r. New words' rows are
`embeddings.embeddings` (n, d), of the tokens `embeddings.indices` (n,).
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.names.kohya import PRIOR_PREFIX

NUMBERED = re.compile(r"weights\.(\d+)\.lora_(down|up)")
ROWS, INDICES = "embeddings.embeddings", "embeddings.indices"
BLOCKS = {128: (8, 24), 64: (4, 12)}
"""Attention blocks of the two levels down, and in reverse order up, by the number of layers: both sizes of Stage C."""
VOCABULARY = 49408
"""Number of CLIP's tokens: new tokens have higher ids."""


def with_names(tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return such a file's tensors under the names that ComfyUI reads, and those of other files unchanged.

    Raises ArtifactError for another number of layers, layers with a part missing, or rows for words of the base.
    """
    numbered = {key: match for key in tensors if (match := NUMBERED.fullmatch(key))}
    if not numbered:
        return dict(tensors)
    count = 1 + max(int(match[1]) for match in numbered.values())
    if count not in BLOCKS or len(numbered) != 2 * count:
        raise ArtifactError(
            f"{file}: {len(numbered)} tensors of numbered layers; Stable Cascade's Stage C has two for each of "
            f"{' or '.join(map(str, sorted(BLOCKS)))} layers, so they cannot be assigned"
        )
    found = {key: tensor for key, tensor in tensors.items() if key not in (*numbered, ROWS, INDICES)}
    for number, name in enumerate(_names(BLOCKS[count])):
        down, up = (tensors[f"weights.{number}.lora_{part}"] for part in ("down", "up"))
        for key, tensor in _named(name, down, up, file):
            found[key] = tensor
    if ROWS in tensors:
        found["clip_g"] = _new_rows(tensors, file)
    return found


def _names(blocks: tuple[int, int]) -> Iterator[str]:
    """The layers in the order of their numbers."""
    for way, counts in (("down", blocks), ("up", blocks[::-1])):
        for level, count in enumerate(counts):
            for number in range(count):
                attention = f"{PRIOR_PREFIX}{way}_blocks_{level}_{3 * number + 2}_attention_attn_"
                yield from (f"{attention}out_proj", f"{attention}in_proj")


def _named(name: str, down: Tensor, up: Tensor, file: str) -> Iterator[tuple[str, Tensor]]:
    whole = name.removesuffix("in_proj")
    names = [name] if whole == name else [f"{whole}to_{part}" for part in "qkv"]
    if up.ndim != 2 or len(up) % len(names):
        raise ArtifactError(f"{file}: the lora_up of {name} has the invalid shape {tuple(up.shape)}")
    for each, rows in zip(names, up.chunk(len(names)), strict=True):
        yield f"{each}.lora_down.weight", down.clone()
        yield f"{each}.lora_up.weight", rows.clone()
        yield f"{each}.alpha", torch.tensor(1.0)


def _new_rows(tensors: Mapping[str, Tensor], file: str) -> Tensor:
    indices = tensors.get(INDICES)
    if indices is not None and bool((indices < VOCABULARY).any()):
        raise ArtifactError(
            f"{file}: it changes tokens of the base model's vocabulary ({INDICES} below {VOCABULARY}), which is not "
            "supported. Use a file with new tokens (in brackets in its configuration)"
        )
    return tensors[ROWS]

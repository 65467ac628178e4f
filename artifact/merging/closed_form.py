"""Custom Diffusion's closed form: one change of keys and values with each file's outputs for its trigger words."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.merging.plain import concatenated
from artifact.names.components import DENOISER, Place
from artifact.prompt_states import vocabulary_words, word_states
from families.family import ModelFamily

READS_PROMPT = (".attn2.to_k", ".attn2.to_v")
WORDS = 500
RIDGE = 1e-4
"""Share of the mean variance that is added to the second moments, which are singular for fewer words than
dimensions."""
SAME = 1e-4
"""Relative distance below which two states are considered equal."""


def constrained_change(targets: Tensor, states: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return down (n, in) and up (out, n) of the change ΔW with ΔW · t = target for each state t, and of all such the
    one that changes other words least (Kumari et al. 2023, arXiv 2212.04488, eq. 4).

    `targets`: (n, out). `states`: (n, in), linearly independent. `moments`: (in, in), Σ x xᵀ of other words' states.
    ΔW = targetsᵀ (d Tᵀ)⁻¹ d with d = T C⁻¹, in fp64: its rank is n.
    """
    t, c = states.double(), moments.double()
    d = torch.linalg.solve(c, t.T).T
    return torch.linalg.solve(d @ t.T, d).float(), targets.T.float()


def closed_form(
    files: Sequence[Mapping[Place, LoraLayer]], family: ModelFamily, states: Sequence[Tensor]
) -> tuple[dict[Place, LoraLayer], str]:
    """Return the merged layers by place. Each of `files` with its weight inside, scale 1. `states`: (n, in) of each
    file's words.

    Keys and values of cross-attention are solved for; all other layers are summed. Raises ArtifactError for files that
    change no such layer, or a text encoder, whose states would be others.
    """
    if any(place.component != DENOISER for layers in files for place in layers):
        raise ArtifactError(
            "--mode closed-form: a file changes a text encoder, and thereby the states of the words. Use --mode concat."
        )
    every = [place for layers in files for place in layers]
    solved = [place for place in dict.fromkeys(every) if place.path.endswith(READS_PROMPT)]
    if not solved:
        raise ArtifactError(
            "--mode closed-form: no file changes keys or values of cross-attention (attn2). Use --mode concat."
        )
    own = _independent(states)
    moments = _moments(family)
    merged: dict[Place, LoraLayer] = {}
    for place in dict.fromkeys(every):
        parts = [layers[place] for layers in files if place in layers]
        if place not in solved:
            merged[place] = concatenated(place.path, parts)
            continue
        width = parts[0].up.shape[0]
        targets = [
            _effect(layers[place], rows) if place in layers else rows.new_zeros(len(rows), width)
            for layers, rows in zip(files, own, strict=True)
        ]
        down, up = constrained_change(torch.cat(targets), torch.cat(own), moments)
        merged[place] = LoraLayer(down, up, float(len(down)))
    note = (
        f"closed-form: {len(solved)} layers of keys and values have rank {len(torch.cat(own))}, one for each token; "
        f"{len(merged) - len(solved)} others are summed"
    )
    return merged, note


def _effect(layer: LoraLayer, states: Tensor) -> Tensor:
    return states @ layer.down.float().T @ layer.up.float().T


def _independent(states: Sequence[Tensor]) -> list[Tensor]:
    """Remove rows that equal an earlier one: words with which several prompts begin. Raises ArtifactError if a prompt
    has no row left."""
    kept: list[Tensor] = []
    for rows in states:
        before = torch.cat([*kept, rows.new_zeros(0, rows.shape[1])])
        fresh = [row for row in rows if not _is_among(row, before)]
        if not fresh:
            raise ArtifactError(
                "--mode closed-form: two files have the same words; give each file a different prompt with --prompts"
            )
        kept.append(torch.stack(fresh))
    return kept


def _is_among(row: Tensor, others: Tensor) -> bool:
    return len(others) > 0 and bool(((others - row).norm(dim=1) < SAME * row.norm()).any())


def _moments(family: ModelFamily) -> Tensor:
    """Σ x xᵀ (in, in), fp64, of the states of words of the vocabulary, in "a photo of a …", with a ridge."""
    prompts = [f"a photo of a {word}" for word in vocabulary_words(family.tokenizers[0], WORDS)]
    rows = torch.cat(word_states(family, prompts)).double()
    moments = rows.T @ rows
    return moments + RIDGE * moments.trace() / len(moments) * torch.eye(len(moments), dtype=moments.dtype)

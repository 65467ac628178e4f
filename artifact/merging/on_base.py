"""Merging that evaluates the base model: the text encoders' states of words, or the denoiser's predictions."""

from collections.abc import Iterator, Sequence

import torch

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from artifact.merging.closed_form import closed_form
from artifact.merging.low_rank import Fit
from artifact.merging.plain import Outcome, concatenated, plain_lora, squared_norm
from artifact.merging.ziplora import ziplora
from artifact.names.components import Place, place_names
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import PlacedArtifacts, resolve_layers
from artifact.prompt_states import word_states
from families.family import ModelFamily
from families.parts.placeholder_tokens import expand_triggers

ON_BASE = ("closed-form", "ziplora")


def merged_on_base(
    mode: str,
    artifacts: Sequence[Artifact],
    weights: Sequence[float],
    family: ModelFamily,
    prompts: Sequence[str],
    remedy: str,
) -> tuple[dict[str, Layer], Outcome]:
    """Return the merged layers, under the names of this program's files, and how far they are from the plain sum.

    `prompts`: one for each file; empty: made of its trigger words. `remedy`: for layers that are no plain LoRA. Raises
    ArtifactError when a file does not fit this base.
    """
    family.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    names = place_names(family)
    parts = [
        {
            place: plain_lora(names[place], layer, weight, remedy)
            for place, layer in resolve_layers(artifact, LoraSlots(family)).items()
        }
        for artifact, weight in zip(artifacts, weights, strict=True)
    ]
    if mode == "ziplora":
        merged, note = ziplora(artifacts, weights, parts, family, prompts or _own_words(artifacts, "a photo of {}"))
    else:
        placed = PlacedArtifacts(family, artifacts, [0.0] * len(artifacts))
        try:
            said = prompts or _own_words(artifacts, "{}")
            states = word_states(family, [expand_triggers(prompt, placed.triggers) for prompt in said])
        finally:
            placed.remove()
        merged, note = closed_form(parts, family, states)
    fits = [_from_the_sum(names[place], layer, place, parts) for place, layer in merged.items()]
    return {names[place]: layer for place, layer in merged.items()}, Outcome(fits, [note])


def _own_words(artifacts: Sequence[Artifact], template: str) -> list[str]:
    """The template with each file's trigger words, under the names that they have in the merged file."""
    taken: set[str] = set()
    found = []
    for artifact in artifacts:
        words = list(_renamed(artifact, taken))
        if not words:
            raise ArtifactError("a file has no trigger word. Give --prompts, one for each file.")
        found.append(template.format(" ".join(words)))
    return found


def _renamed(artifact: Artifact, taken: set[str]) -> Iterator[str]:
    for word, tokens in artifact.triggers.items():
        name, number = word, 1
        while tokens and name in taken:
            number += 1
            name = f"{word}{number}"
        taken.add(name)
        yield name


def _from_the_sum(name: str, layer: LoraLayer, place: Place, parts: Sequence[dict[Place, LoraLayer]]) -> Fit:
    total = concatenated(name, [each[place] for each in parts if place in each])
    apart = concatenated(name, [layer, LoraLayer(total.down, -total.up, total.alpha)])
    return Fit(name, squared_norm(total), max(squared_norm(apart), 0.0))

"""Scales the token embeddings of trigger words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from artifact.artifact import Artifact
from artifact.placement.placing import distinct_triggers
from sampler.duplicates import same_lora
from sampler.request import RequestError
from sampler.weights import ScaledArtifact

EVERY_TRIGGER = ""
MAX_STRENGTH = 4.0


def parse_token_strength(text: str | float) -> dict[str, float]:
    """ "0.8" for every trigger word (under the key ""), or "TOK=0.8, ANNA=1.2". Raises RequestError."""
    strengths: dict[str, float] = {}
    for part in re.split(r"[,\n]", str(text)):
        trigger, _, number = part.rpartition("=")
        try:
            strength = float(number)
        except ValueError:
            raise RequestError(
                f"token_strength: {part.strip()[:60]!r} is neither a number nor TRIGGER=number"
            ) from None
        if not 0 <= strength <= MAX_STRENGTH:
            raise RequestError(f"token_strength: {strength:g} must be between 0 and {MAX_STRENGTH:g}")
        strengths[trigger.strip()] = strength
    return strengths


def with_token_strength(loras: Sequence[ScaledArtifact], strengths: Mapping[str, float]) -> list[ScaledArtifact]:
    """Return the LoRAs with their token rows scaled by trigger word, under the names that prompts have for them: of two
    LoRAs with the trigger word TOK, the second one's is TOK2. Raises RequestError for an unknown trigger word."""
    names = _names_in_prompts([lora.artifact for lora in loras])
    known = {name for each in names for name in each}
    strange = sorted(set(strengths) - known - {EVERY_TRIGGER})
    if strange:
        raise RequestError(
            f"token_strength: no LoRA has the trigger word {strange[0]}; known are {', '.join(sorted(known)) or 'none'}"
        )
    if all(strength == 1 for strength in strengths.values()):
        return list(loras)
    return [
        replace(lora, artifact=_scaled(lora.artifact, own, strengths)) for lora, own in zip(loras, names, strict=True)
    ]


def _names_in_prompts(artifacts: Sequence[Artifact]) -> list[list[str]]:
    """Return the name of each trigger word of each LoRA. A LoRA that is given twice is used once (`merge_duplicates`),
    so it has the same names."""
    names: list[list[str]] = []
    different: list[Artifact] = []
    for number, artifact in enumerate(artifacts):
        same = next((earlier for earlier in range(number) if same_lora(artifacts[earlier], artifact)), None)
        if same is not None:
            names.append(names[same])
            continue
        before = len(distinct_triggers(different)[0])
        different.append(artifact)
        added = list(distinct_triggers(different)[0].items())[before:]
        with_tokens = (name for name, placeholders in added if placeholders)
        names.append(
            [
                next(with_tokens) if placeholders and artifact.tokens else word
                for word, placeholders in artifact.triggers.items()
            ]
        )
    return names


def _scaled(artifact: Artifact, names: Sequence[str], strengths: Mapping[str, float]) -> Artifact:
    """`names`: of the artifact's trigger words in prompts."""
    default = strengths.get(EVERY_TRIGGER, 1.0)
    factors = torch.tensor(
        [
            strengths.get(name, default)
            for name, placeholders in zip(names, artifact.triggers.values(), strict=True)
            for _ in placeholders
        ]
    )
    if not artifact.tokens or not len(factors):
        return artifact
    return replace(artifact, tokens={name: rows * factors[:, None] for name, rows in artifact.tokens.items()})

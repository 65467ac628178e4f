"""Scales the token embeddings of trigger words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from artifact.artifact import Artifact
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
    """Return the LoRAs with their token rows scaled by trigger word. Raises RequestError for an unknown trigger
    word."""
    known = {trigger for lora in loras for trigger in lora.artifact.triggers}
    strange = sorted(set(strengths) - known - {EVERY_TRIGGER})
    if strange:
        raise RequestError(
            f"token_strength: no LoRA has the trigger word {strange[0]}; known are {', '.join(sorted(known)) or 'none'}"
        )
    if all(strength == 1 for strength in strengths.values()):
        return list(loras)
    return [replace(lora, artifact=_scaled(lora.artifact, strengths)) for lora in loras]


def _scaled(artifact: Artifact, strengths: Mapping[str, float]) -> Artifact:
    default = strengths.get(EVERY_TRIGGER, 1.0)
    factors = torch.tensor(
        [strengths.get(trigger, default) for trigger, placeholders in artifact.triggers.items() for _ in placeholders]
    )
    if not artifact.tokens or not len(factors):
        return artifact
    return replace(artifact, tokens={name: rows * factors[:, None] for name, rows in artifact.tokens.items()})

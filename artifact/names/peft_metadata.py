"""Reads the alphas of diffusers' files from the header: peft's configuration of each component, as JSON.

diffusers stores {"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": false, "unet.alpha_pattern": {…} …} there and
scales by it on loading; no tensor contains an alpha.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, Layer, LoraLayer

METADATA_KEY = "lora_adapter_metadata"
NAME = re.compile(r"\^?[\w.]+")
"""A pattern that is a module's name, or the end of one. peft uses regular expressions; those from a file are not
run."""


def with_alphas(layers: Mapping[str, Layer], header: Mapping[str, str]) -> dict[str, Layer]:
    """Return the layers with the alphas of the header, where they have peft's names.

    Raises ArtifactError when the header is malformed, or its patterns are regular expressions.
    """
    if METADATA_KEY not in header:
        return dict(layers)
    try:
        values = json.loads(header[METADATA_KEY])
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return {name: _with_alpha(name, layer, values) for name, layer in layers.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{METADATA_KEY} in its header is damaged: {error}") from error


def _with_alpha(name: str, layer: Layer, values: Mapping[str, Any]) -> Layer:
    component, _, path = name.partition(".")
    lora = layer.direction if isinstance(layer, DoraLayer) else layer
    if not path or f"{component}.lora_alpha" not in values or not isinstance(lora, LoraLayer):
        return layer
    pattern = values.get(f"{component}.alpha_pattern") or {}
    alpha = float(_matching(pattern, path, values[f"{component}.lora_alpha"]))
    if values.get(f"{component}.use_rslora"):
        alpha *= math.sqrt(lora.rank)  # peft divides by √rank, the layer by the rank
    scaled = replace(lora, alpha=alpha)
    return replace(layer, direction=scaled) if isinstance(layer, DoraLayer) else scaled


def _matching(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """Return the first entry for this module, as peft matches: by its whole name, or by its last components."""
    for key, value in pattern.items():
        if NAME.fullmatch(key) is None:
            raise ArtifactError(
                f"alpha_pattern in its header contains the regular expression {key[:50]!r}; only module names are "
                "supported"
            )
        if path == key.removeprefix("^") or (not key.startswith("^") and path.endswith(f".{key}")):
            return value
    return default

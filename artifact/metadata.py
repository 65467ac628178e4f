"""What an artifact says of itself, in the header of its file: strings only, readable without loading a tensor.

Token embeddings live here, as base64 of fp32 rows: foreign tensors in a LoRA file make diffusers pass over the whole
file with no more than a warning.
"""

import base64
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers import DoraLayer, Layer, LoraLayer

FORMAT_VERSION = "1"
OWN_KEY = "lora_trainer"
TOKENS_KEY = "lora_trainer.tokens"
MODELSPEC_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class ArtifactDescription:
    """`triggers` maps each trigger word to its placeholder tokens; `config` is the resolved configuration."""

    family: str
    base_model: str
    base_fingerprint: str
    prediction_type: str
    """epsilon, v_prediction or flow."""
    triggers: dict[str, list[str]]
    steps: int
    config: dict[str, Any] = field(default_factory=dict)
    dataset_digest: str = ""
    recommended_scale: float = 1.0
    sample_prompts: list[str] = field(default_factory=list)
    zero_terminal_snr: bool = False
    format_version: str = FORMAT_VERSION


DESCRIPTION = TypeAdapter(ArtifactDescription)


def to_header(
    description: ArtifactDescription,
    tokens: Mapping[str, Tensor],
    layers: Collection[Layer],
    *,
    architecture: str,
    base_model_version: str,
) -> dict[str, str]:
    """The header: our own description, the tokens, and the keys that other tools show (`modelspec.*`, `ss_*`)."""
    config = description.config
    trigger = ", ".join(description.triggers)
    header = {
        OWN_KEY: json.dumps(asdict(description), ensure_ascii=False, sort_keys=True),
        TOKENS_KEY: json.dumps({name: _encode_rows(rows) for name, rows in tokens.items()}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/{'lora' if layers else 'textual-inversion'}",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": f"{trigger} ({description.base_model})",
        "modelspec.resolution": "{0}x{0}".format(config.get("resolution", "")),
        "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "modelspec.trigger_phrase": trigger,
        **_network(layers),
        "ss_base_model_version": base_model_version,
        "ss_sd_model_name": description.base_model,
        "ss_resolution": str(config.get("resolution", "")),
        "ss_steps": str(description.steps),
        "ss_learning_rate": str(config.get("learning_rate", "")),
        "ss_seed": str(config.get("seed", "")),
    }
    if description.prediction_type in MODELSPEC_PREDICTIONS:  # the specification knows no word for flow matching
        header["modelspec.prediction_type"] = MODELSPEC_PREDICTIONS[description.prediction_type]
    return header


def _network(layers: Collection[Layer]) -> dict[str, str]:
    """kohya's description of the network: that of most layers. Its own module knows plain LoRA, LyCORIS the rest."""
    if not layers:
        return {}
    (kind, rank, alpha), _ = Counter((layer.kind, layer.rank, layer.alpha) for layer in layers).most_common(1)[0]
    plain = all(isinstance(layer, LoraLayer) for layer in layers)
    keys = {"ss_network_module": "networks.lora" if plain else "lycoris.kohya"}
    if not plain:
        algorithm = {LoraLayer.kind: "locon", DoraLayer.kind: "locon"}.get(kind, kind)
        keys["ss_network_args"] = json.dumps({"algo": algorithm, "dora_wd": kind == DoraLayer.kind})
    if rank is not None:
        keys |= {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return keys


def from_header(header: Mapping[str, str]) -> tuple[ArtifactDescription | None, dict[str, Tensor]]:
    """The description and the token rows (n, d) by encoder name; None and nothing for a file of another tool.

    Raises ArtifactError when the header claims to be ours but cannot be understood.
    """
    if OWN_KEY not in header:
        return None, {}
    try:
        values = json.loads(header[OWN_KEY])
        if values["format_version"] != FORMAT_VERSION:
            raise ArtifactError(
                f"the artifact's format version is {values['format_version']}, known is "
                f"{FORMAT_VERSION}. Use a newer version of this program."
            )
        tokens = {name: _decode_rows(rows) for name, rows in json.loads(header.get(TOKENS_KEY, "{}")).items()}
        if strange := set(values) - set(ArtifactDescription.__dataclass_fields__):
            raise ArtifactError(f"the artifact's header is damaged: {sorted(strange)[0]!r} is unknown")
        description = DESCRIPTION.validate_json(header[OWN_KEY], strict=True)
        if not all(word.strip() and placeholders for word, placeholders in description.triggers.items()):
            raise ArtifactError("the artifact's header is damaged: an empty trigger word")
        return description, tokens
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ArtifactError(f"the artifact's header is damaged: {place}: {first['msg']}") from error
        raise ArtifactError(f"the artifact's header is damaged: {error}") from error


def _encode_rows(rows: Tensor) -> dict[str, object]:
    values = rows.detach().float().cpu().contiguous().numpy()
    return {"shape": list(values.shape), "dtype": "float32", "data": base64.b64encode(values.tobytes()).decode()}


def _decode_rows(rows: Mapping[str, Any]) -> Tensor:
    values = np.frombuffer(base64.b64decode(rows["data"], validate=True), dtype="<f4")
    if not np.isfinite(values).all():
        raise ArtifactError("the artifact's token embeddings hold values that are not finite")
    return torch.from_numpy(values.copy()).reshape(rows["shape"])

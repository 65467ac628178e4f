"""The gate of a Perfusion file, stored in its header with the embeddings of its trigger words."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from artifact.errors import ArtifactError
from artifact.layers import Gate, GatedLayer, Layer
from artifact.metadata import decode_rows, encode_rows

GATE_KEY = "lora_trainer.perfusion"
STATES = ("inputs", "directions", "classes")


def gate_header(layers: Iterable[Layer]) -> dict[str, str]:
    """Return the header that stores the gate of these layers; empty where they have none."""
    gate = next((layer.gate for layer in layers if isinstance(layer, GatedLayer)), None)
    if gate is None:
        return {}
    states = {name: encode_rows(getattr(gate, name)) for name in STATES}
    return {GATE_KEY: json.dumps({"bias": gate.bias, "temperature": gate.temperature, **states})}


def with_gate(layers: Mapping[str, Layer], header: Mapping[str, str], file: str) -> dict[str, Layer]:
    """Return the layers with the gate of the header. Raises ArtifactError where it is missing or malformed."""
    if not any(isinstance(layer, GatedLayer) for layer in layers.values()):
        return dict(layers)
    try:
        values = json.loads(header[GATE_KEY])
        states = {name: decode_rows(values[name]) for name in STATES}
        gate = Gate(**states, bias=float(values["bias"]), temperature=float(values["temperature"]))
        return {
            name: replace(layer, gate=gate) if isinstance(layer, GatedLayer) else layer
            for name, layer in layers.items()
        }
    except ArtifactError as error:
        raise ArtifactError(f"{file}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, RecursionError) as error:
        raise ArtifactError(f"{file}: {GATE_KEY} in its header is missing or damaged ({error})") from error

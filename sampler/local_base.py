"""The base model of a LoRA: how it is loaded, where it is on this machine, and whether the LoRA fits it.

The path of a base on this machine is in the configuration in the run's folder.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from artifact.artifact import Artifact
from artifact.layers import LoraLayer, TimedLoraLayer
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import resolve_layers
from families.family import ModelFamily
from families.loading.sources import HUB_ID
from families.precision.fp8_products import has_fp8_products, multiply_in_fp8
from sampler.request import RequestError
from settings.public import public_name
from settings.record import ConfigError, read_settings_file

CONFIG_FILE = "config.yaml"
TEXT_ENCODERS = ("lora_te", "text_encoder")
KEPT = ("base_model", "base_config", "vae")


def read_local(path: Path) -> Artifact:
    """Read the artifact at `path`. In the folder of its run, the base's local path is restored in its description.

    Raises ArtifactError.
    """
    artifact = Artifact.read(path)
    description = artifact.description
    if description is None:
        return artifact
    settings = _settings_of_run(path)
    base = settings.get("base_model")
    if not isinstance(base, str) or public_name(base) != description.base_model:
        return artifact
    config = {**description.config, **{name: settings.get(name) for name in KEPT}}
    return replace(artifact, description=replace(description, base_model=base, config=config))


def _settings_of_run(path: Path) -> dict[str, object]:
    """Return the settings in config.yaml of the run that the file or checkpoint belongs to; empty without one."""
    folders = (path.parent, path.parent.parent.parent)
    file = next((folder / CONFIG_FILE for folder in folders if (folder / CONFIG_FILE).is_file()), None)
    try:
        return read_settings_file(file) if file else {}
    except ConfigError:  # a config.yaml of another program
        return {}


def require_fitting(loras: Sequence[Artifact], family: ModelFamily) -> None:
    """Raises ArtifactError for a LoRA of another base model, if the weights are not loaded yet."""
    if next(family.denoiser.parameters()).is_meta:
        slots = LoraSlots(family)  # of the modules without weights, which are replaced when the weights are loaded
        for artifact in loras:
            resolve_layers(artifact, slots)


def place_on(family: ModelFamily, device: torch.device, *, go_fast: bool) -> ModelFamily:
    """Move the base model to its device, with matrix products in fp8 if `go_fast`."""
    if go_fast:
        family.to(torch.device("cpu"))
        multiply_in_fp8(family.denoiser, device)
    return family.to(device)


def require_fast(loras: Sequence[Artifact], device: torch.device) -> None:
    """Raises RequestError for a device without matrix products in fp8, and for a LoRA that changes the base model's
    weights, which are not available in fp8."""
    if not has_fp8_products(device):
        raise RequestError(
            f"go_fast: needs a GPU that supports fp8 (NVIDIA's Ada, Hopper or later), and this is {_named(device)}. "
            "Leave it out"
        )
    for artifact in loras:
        for name, layer in artifact.layers.items():
            if not isinstance(layer, LoraLayer | TimedLoraLayer) and not name.startswith(TEXT_ENCODERS):
                raise RequestError(
                    f"go_fast: {name} is a {layer.kind} layer, which changes the base model's own weights. Leave "
                    "go_fast out, or convert the file to a plain LoRA: python -m artifact resize "
                    "FILE OUT --rank R --base BASE"
                )


def _named(device: torch.device) -> str:
    return "a CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def loading_options(artifact: Artifact | None, base_model: str) -> dict[str, Any]:
    """Return the artifact's loading options of its own base model; none for another base model."""
    description = artifact.description if artifact else None
    if description is None or description.base_model != base_model:
        return {}
    names = ("base_config", "base_revision", "vae", "prediction_type", "zero_terminal_snr")
    chosen = {name: description.config.get(name) for name in names}
    return {name: value for name, value in chosen.items() if value not in (None, False, "auto")}


def can_be_found(vae: str | None) -> bool:
    """Whether a LoRA's VAE can be loaded. Local paths of the training machine are only stored as names in the
    metadata."""
    return vae is None or HUB_ID.fullmatch(vae) is not None or Path(vae).expanduser().exists()

"""The base that a LoRA belongs to: how it is loaded, where it is on this machine, and whether the LoRA fits it.

The path of a base on this machine is in the configuration in the run's folder.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from artifact.artifact import Artifact
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import resolve_layers
from families.family import ModelFamily
from families.loading.sources import HUB_ID
from settings.public import public_name
from settings.record import ConfigError, read_settings_file

CONFIG_FILE = "config.yaml"
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
    """Raises ArtifactError for a LoRA of another base, if this one's weights are still to be read."""
    if next(family.denoiser.parameters()).is_meta:
        slots = LoraSlots(family)  # of the skeleton, which another module replaces
        for artifact in loras:
            resolve_layers(artifact, slots)


def loading_options(artifact: Artifact | None, base_model: str) -> dict[str, Any]:
    """Return the loading options of the artifact's own base during its training; none for another base."""
    description = artifact.description if artifact else None
    if description is None or description.base_model != base_model:
        return {}
    names = ("base_config", "base_revision", "vae", "prediction_type", "zero_terminal_snr")
    chosen = {name: description.config.get(name) for name in names}
    return {name: value for name, value in chosen.items() if value not in (None, False, "auto")}


def can_be_found(vae: str | None) -> bool:
    """Whether a LoRA's VAE can be looked for: a path of another machine is a bare name in its metadata."""
    return vae is None or HUB_ID.fullmatch(vae) is not None or Path(vae).expanduser().exists()

"""What LoRAs say of the base that they belong to, and whether they fit one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifact.artifact import Artifact
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import resolve_layers
from families.family import ModelFamily
from families.loading.sources import HUB_ID


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

"""Changes the rank of a LoRA, and converts other kinds of layers to plain LoRA."""

from pathlib import Path

import torch

from artifact.conversion.files import LoraFile, require_change_of_weights, require_free, write_layers
from artifact.errors import ArtifactError
from artifact.layers import Layer
from artifact.merging.dense import at_rank_on_base, open_base
from artifact.merging.low_rank import Fit
from artifact.merging.plain import Outcome, at_rank, is_plain, network_header, plain_lora

REMEDY = (
    "Add --base BASE, the model that it was trained on: its change of the base weights is then converted to a plain "
    "LoRA."
)


def resize(source: Path, target: Path, rank: int, base: str | None = None, base_config: str | None = None) -> Outcome:
    """Write `source` as the nearest plain LoRA of another rank, by the singular values of each layer's change. alpha =
    rank.

    `base`: required for layers of other kinds (LoHa, LoKr, DoRA, differences), whose change depends on the base's
    weights. The approximation is optimal for the rank (Eckart and Young 1936). Raises ArtifactError, or BaseModelError
    for the base.
    """
    require_free(target)
    if rank < 1:
        raise ArtifactError(f"--rank: {rank} must be at least 1")
    file = LoraFile.read(source)
    require_layers(file, source)
    if base is not None:
        require_use_for_base([file])
        layers, outcome = at_rank_on_base([file.artifact], [1.0], open_base(base, base_config), rank)
    else:
        layers, fits = dict[str, Layer](), list[Fit]()
        for name, layer in file.artifact.layers.items():
            layers[name], fit = at_rank(name, plain_lora(name, layer, 1.0, REMEDY), rank)
            fits.append(fit)
        outcome = Outcome(fits)
    write_layers(layers, file.header_with_tokens | network_header(file.header, layers), target)
    return outcome


def require_layers(file: LoraFile, path: Path) -> None:
    """Raises ArtifactError for a file of embeddings alone, of Perfusion, or with values that are not finite."""
    if not file.artifact.layers:
        raise ArtifactError(f"{path.name} does not contain layers, only token embeddings")
    require_change_of_weights(file, path)
    for name, layer in file.artifact.layers.items():
        if not all(bool(torch.isfinite(values).all()) for values in layer.parameters):
            raise ArtifactError(f"{path.name}: {name} contains values that are not finite: its training diverged")


def require_use_for_base(files: list[LoraFile]) -> None:
    """Raises ArtifactError when no layer needs a base."""
    if all(is_plain(layer) for file in files for layer in file.artifact.layers.values()):
        raise ArtifactError("--base: not needed, because all layers are plain LoRA. Remove it.")

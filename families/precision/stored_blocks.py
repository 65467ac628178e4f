"""Stores the linear layers of a denoiser's repeated blocks in another format.

Embeddings, norms, first and last layers and a UNet's convolutions are not changed: they are few, and the most sensitive
to rounding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from families.family import ModelFamily
from families.loading.fingerprint import fingerprint, remember_fingerprint
from families.parts.blocks import repeated_blocks
from families.precision.formats import FORMATS, PrecisionOfBase
from families.precision.stored_linear import StoredLinear


@dataclass(frozen=True)
class Storage:
    """`precision`: of the weights; bf16 means the dtype in which they are loaded. `offloaded`: whether they stay in
    main memory."""

    precision: PrecisionOfBase = "bf16"
    offloaded: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the weights are on the device, in the format in which they were loaded."""
        return self == AS_LOADED


AS_LOADED = Storage()


def place(family: ModelFamily, storage: Storage, device: torch.device) -> None:
    """Move the base to `device`, its denoiser's blocks stored so. Where they are others than loaded, they are never
    whole on the device."""
    if not storage.is_plain and not is_stored(family.denoiser):
        family.to(torch.device("cpu"))
        store_blocks(family.denoiser, storage, device)
    family.to(device)


def store_blocks(denoiser: Any, storage: Storage, device: torch.device) -> None:
    """Replace the linear layers, one after the other, each encoded on `device`; no adapter may be on them.

    The denoiser keeps its fingerprint. Raises ValueError without repeated blocks.
    """
    if not next(denoiser.parameters()).is_meta:
        remember_fingerprint(denoiser, fingerprint(denoiser))
    form = FORMATS[storage.precision]
    for block in repeated_blocks(denoiser):
        for path, layer in list(block.named_modules()):
            if type(layer) is nn.Linear and form.holds(layer.weight):
                block.set_submodule(path, StoredLinear(layer, form, device, offloaded=storage.offloaded))


def is_stored(denoiser: nn.Module) -> bool:
    """Whether `store_blocks` has been applied."""
    return any(isinstance(module, StoredLinear) for module in denoiser.modules())

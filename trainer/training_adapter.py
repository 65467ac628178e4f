"""A LoRA that is applied to the frozen base model during training only, not in samples or in the result.

Training on a distilled base removes the distillation. A training adapter is a LoRA that was made to remove it
beforehand: trained with it, a new LoRA only learns the concept, and on the base without the adapter few steps remain
sufficient (ai-toolkit's assistant LoRAs for Z-Image Turbo and FLUX.1 schnell).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from artifact.layers import LoraLayer
from artifact.names.components import DENOISER
from families.family import ModelFamily
from fetching.cache import sha256
from settings.record import ConfigError
from trainer.initial_weights import read_for_base


@dataclass(frozen=True)
class TrainingAdapterFile:
    """The contents of the file. `layers`: by the paths of the denoiser's linear layers. `digest`: SHA-256 of the
    file."""

    name: str
    digest: str
    layers: Mapping[str, LoraLayer]


def read_training_adapter(path: Path, family: ModelFamily) -> TrainingAdapterFile:
    """Read the file and check that it is a plain LoRA for this base's denoiser, whose weights need not be loaded.
    Raises ConfigError.
    """
    artifact, resolved = read_for_base("training_adapter", path, family)
    layers = {place.path: layer for place, layer in resolved.items() if _is_plain(layer)}
    if not layers or len(layers) < len(resolved) or any(place.component != DENOISER for place in resolved):
        raise ConfigError(
            f"training_adapter: {path.name} is not a plain LoRA of linear layers of the transformer. Only such a LoRA "
            "can be removed again exactly"
        )
    if artifact.tokens:
        raise ConfigError(
            f"training_adapter: {path.name} contains token embeddings, which are not supported in a training adapter"
        )
    return TrainingAdapterFile(path.name, sha256(path), layers)


def distillation_notes(adapter: TrainingAdapterFile | None, family: ModelFamily) -> tuple[str, ...]:
    """Notes on the training of a distilled base, or of another one, with or without a training adapter."""
    if adapter is None:
        return family.training_notes
    if not family.training_notes:
        return (
            f"training_adapter: {adapter.name} is only applied in training steps. It preserves the distillation of a "
            "distilled base model, but this base model is not distilled: leave it out, unless it was made for this "
            "base model",
        )
    return ()


def _is_plain(layer: object) -> TypeGuard[LoraLayer]:
    return isinstance(layer, LoraLayer) and layer.mid is None and layer.down.ndim == 2


class TrainingAdapter:
    """The layers of a file, added to the outputs of the base's linear layers: W·x + s·up·(down·x).

    The base's weights do not change, so without the layers it is bit-identical, in every storage format.
    """

    def __init__(self, file: TrainingAdapterFile, denoiser: nn.Module) -> None:
        """`denoiser`: with its weights, with or without the trained adapter."""
        self.digest = file.digest
        self._on = torch.ones((), device=next(denoiser.parameters()).device)
        self._handles = [
            module.register_forward_hook(_addition(layer, module, self._on))
            for module, layer in ((_base_layer(denoiser, path), layer) for path, layer in file.layers.items())
        ]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Disable it inside this context: it is multiplied by 0, so that compiled blocks and CUDA graphs remain
        valid."""
        self._on.zero_()
        try:
            yield
        finally:
            self._on.fill_(1.0)

    def remove(self) -> None:
        """Remove it from the base model."""
        for handle in self._handles:
            handle.remove()


def _base_layer(denoiser: nn.Module, path: str) -> nn.Module:
    """The base's own layer, also inside the trained adapter."""
    module: Any = denoiser.get_submodule(path)
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _addition(layer: LoraLayer, module: Any, factor: Tensor) -> Any:
    dtype = module.weight.dtype
    down, up = (tensor.to(factor.device, dtype) for tensor in (layer.down, layer.up * layer.scale))

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        change = functional.linear(functional.linear(inputs[0].to(dtype), down), up)
        return output + (change * factor).to(output.dtype)

    return add

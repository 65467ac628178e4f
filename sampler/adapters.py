"""Puts an artifact on a base model, and takes it off again so that exactly the base is left."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer as PeftLoraLayer
from torch import Tensor, nn

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.kohya import module_paths
from artifact.layers import LoraLayer
from families.family import ModelFamily
from families.placeholder_tokens import PlaceholderTokens

ADAPTER = "default"


class PlacedArtifact:
    """An artifact in place. Until `remove`, the family's modules are changed; a failed placing changes nothing."""

    def __init__(self, family: ModelFamily, artifact: Artifact) -> None:
        """Raises ArtifactError when a layer or a token row does not fit this base."""
        self._family = family
        self.triggers: dict[str, list[str]] = artifact.description.triggers if artifact.description else {}
        layers = resolve_layers(artifact, family)
        self._tokens = _place_tokens(family, artifact)
        try:
            _place_lora(family.denoiser, layers)
        except BaseException:
            self.remove()
            raise

    def set_scale(self, scale: float) -> None:
        """Multiply the LoRA's effect. 0 is the base, 1 as trained. Tokens are not scaled."""
        for module in self._family.denoiser.modules():
            if isinstance(module, PeftLoraLayer):
                module.set_scale(ADAPTER, scale)

    def remove(self) -> None:
        """Give the base back as it was."""
        remove_lora(self._family.denoiser)
        if self._tokens is not None:
            self._tokens.remove()


def remove_lora(denoiser: Any) -> None:
    """Take every peft layer out of the denoiser; the base's weights are the same objects as before."""
    denoiser.unload_lora()


def resolve_layers(artifact: Artifact, family: ModelFamily) -> dict[str, LoraLayer]:
    """The artifact's layers by the paths of this denoiser's modules.

    Raises ArtifactError when a name has no module here, or a shape does not fit.
    """
    paths = module_paths(family)
    unknown = [name for name in artifact.layers if name not in paths]
    if unknown:
        raise ArtifactError(
            f"{len(unknown)} of {len(artifact.layers)} layers have no place in this base model, such "
            f"as {unknown[0]}. Was the LoRA trained on another family, or on text encoders?"
        )
    layers: dict[str, LoraLayer] = {}
    for name, layer in artifact.layers.items():
        path, weight = paths[name], family.denoiser.get_submodule(paths[name]).weight
        assert isinstance(weight, Tensor)
        if not isinstance(layer, LoraLayer) or layer.mid is not None:
            raise ArtifactError(f"{name}: a {layer.kind} layer cannot be placed yet")
        if not layer.fits(weight.shape):
            raise ArtifactError(
                f"{path}: the LoRA's shapes {tuple(layer.down.shape)} and {tuple(layer.up.shape)} do "
                f"not fit the base's {tuple(weight.shape)}. Was it trained on another base?"
            )
        layers[path] = layer
    return layers


def _place_tokens(family: ModelFamily, artifact: Artifact) -> PlaceholderTokens | None:
    if not artifact.tokens:
        return None
    names = (
        [name for placeholders in artifact.description.triggers.values() for name in placeholders]
        if artifact.description
        else []
    )
    missing = [encoder for encoder in family.encoder_names if encoder not in artifact.tokens]
    if missing:
        raise ArtifactError(f"the artifact has no token embeddings for {', '.join(missing)}: another family's?")
    try:
        return PlaceholderTokens(family, names, [artifact.tokens[encoder] for encoder in family.encoder_names])
    except ValueError as error:
        raise ArtifactError(f"the artifact's tokens do not fit this base: {error}") from error


def _place_lora(denoiser: nn.Module, layers: Mapping[str, LoraLayer]) -> None:
    (rank, alpha), _ = Counter((layer.rank, layer.alpha) for layer in layers.values()).most_common(1)[0]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(layers),
        rank_pattern={path: layer.rank for path, layer in layers.items() if layer.rank != rank},
        alpha_pattern={path: layer.alpha for path, layer in layers.items() if layer.alpha != alpha},
    )
    parameter = next(denoiser.parameters())
    inject_adapter_in_model(config, denoiser, adapter_name=ADAPTER)
    state: dict[str, Tensor] = {}
    for path, layer in layers.items():
        wrapped: Any = denoiser.get_submodule(path)
        kernel = wrapped.base_layer.weight.shape[2:]
        state[f"{path}.lora_A.weight"] = layer.down.reshape(layer.rank, -1, *kernel)
        state[f"{path}.lora_B.weight"] = layer.up.reshape(-1, layer.rank, *(1 for _ in kernel))
    result = set_peft_model_state_dict(denoiser, state, adapter_name=ADAPTER)
    if result.unexpected_keys:
        remove_lora(denoiser)
        strange = result.unexpected_keys
        raise ArtifactError(f"{len(strange)} tensors were not taken, such as {strange[0]}")
    for module in denoiser.modules():
        if isinstance(module, PeftLoraLayer):
            for part in (module.lora_A, module.lora_B):
                part.to(device=parameter.device, dtype=parameter.dtype)
    denoiser.requires_grad_(False)


@torch.no_grad()
def adapter_layers(denoiser: nn.Module, names: Mapping[str, str]) -> dict[str, LoraLayer]:
    """The LoRA that is on the denoiser now, fp32 on the CPU. `names` maps module paths to the names in the file."""
    layers: dict[str, LoraLayer] = {}
    for path, module in denoiser.named_modules():
        if isinstance(module, PeftLoraLayer):
            down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            alpha = float(module.scaling[ADAPTER]) * down.shape[0]
            layers[names[path]] = LoraLayer(down.float().cpu().clone(), up.float().cpu().clone(), alpha)
    return layers

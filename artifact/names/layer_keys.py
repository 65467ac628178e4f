"""Groups a file's tensors into layers, by the key names of kohya, LyCORIS and peft."""

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers import KEYS, DoraLayer, Layer, LoraLayer, layer_from_tensors
from artifact.layers.factored import ALPHA
from artifact.safetensors_file import require_finite

ALIASES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_A.default.weight": "lora_down.weight",
    "lora_B.default.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "w_norm": "diff",
    "b_norm": "diff_b",
}
"""Key names of peft, with and without the name of its adapter, of diffusers before it used peft, and of LyCORIS for
norms, with the equivalent keys."""
PROCESSOR = re.compile(
    r"(?:unet\.)?(?P<attention>.+)\.processor\.(?P<projection>to_[qkv]|to_out)_lora\.(?P<part>down|up)\.weight"
)
"""diffusers' first names of LoRA layers in attention processors, which cog-sdxl uses."""
PEFT_MAGNITUDES = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
"""peft's DoRA magnitudes: (out,) for linear, (1, out, 1, 1) for convolution layers."""
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16)
"""Types of alphas in files that kohya's svd_merge_lora.py and other scripts made: the rank as it is."""
OF_PEFT = "base_model.model."
"""Prefix of the names in peft's own adapter files, whose alpha is in adapter_config.json beside them."""
OF_CONTROLNETS = ("zero_convs.", "controlnet_")
"""Prefixes of tensor names that every ControlNet has."""
SUFFIXES = sorted((f".{key}" for key in (*KEYS, *ALIASES, *PEFT_MAGNITUDES)), key=len, reverse=True)


def layers_from_tensors(tensors: Mapping[str, Tensor], file: str) -> dict[str, Layer]:
    """Return the layers by their module names in the file. Every tensor must belong to a layer.

    Raises ArtifactError naming a key that is unknown, missing, not finite or of invalid shape.
    """
    if any(key.startswith(OF_PEFT) for key in tensors):
        raise ArtifactError(
            f"{file}: is an adapter file of peft, without its alpha and the name of its model. Load it with peft, and "
            "write it with the method save_lora_weights of diffusers' pipeline."
        )
    groups: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    strange = []
    for original, tensor in tensors.items():
        key = _present_name(original)
        if (suffix := next(filter(key.endswith, SUFFIXES), None)) is None:
            strange.append(original)
        else:
            groups[key.removesuffix(suffix)][suffix[1:]] = tensor
    if any(key.removeprefix("control_model.").startswith(OF_CONTROLNETS) for key in strange):
        raise ArtifactError(f"{file}: the file is a ControlNet, not a LoRA; use it in predict.py with --controlnet")
    if strange or not groups:
        odd = sorted(strange) or ["no tensors"]
        raise ArtifactError(
            f"{file}: not a plain LoRA: {', '.join(odd[:3])}{' …' if len(odd) > 3 else ''}. Supported are LoRA, DoRA, "
            "LoHa, LoKr and full differences, with the names of kohya or diffusers (peft)."
        )
    layers = {}
    for name, group in groups.items():
        if (alpha := group.get(ALPHA)) is not None and alpha.dtype in WHOLE_NUMBERS:
            group[ALPHA] = alpha.float()
        for suffix, tensor in group.items():
            require_finite(f"{file}: {name}.{suffix}", tensor)
        try:
            layers[name] = layer_from_tensors(_with_common_keys(group))
        except ArtifactError as error:
            raise ArtifactError(f"{file}: {name} {error}") from error
    return layers


def named_tensors(name: str, layer: Layer) -> dict[str, Tensor]:
    """Return the tensors to write for a layer: with the keys of kohya and LyCORIS, or peft's where `name` is dotted.

    diffusers ignores the alpha of LoRA layers with peft's keys, so the scale is folded into the weights there.
    """
    lora = layer.direction if isinstance(layer, DoraLayer) else layer
    if "." not in name or not isinstance(lora, LoraLayer) or lora.mid is not None:
        return {f"{name}.{key}": tensor for key, tensor in layer.tensors().items()}
    tensors = {f"{name}.lora_A.weight": lora.down, f"{name}.lora_B.weight": lora.up.float() * lora.scale}
    if isinstance(layer, DoraLayer):
        if layer.axis != 0:
            raise ArtifactError(f"{name} has a dora_scale per input, which peft's keys do not support")
        tensors[f"{name}.lora_magnitude_vector"] = layer.dora_scale.flatten()
    return tensors


def _present_name(key: str) -> str:
    """Convert the name of a processor's layer to peft's. The output projection is a list there, followed by dropout."""
    if (match := PROCESSOR.fullmatch(key)) is None:
        return key
    projection = "to_out.0" if match["projection"] == "to_out" else match["projection"]
    return f"unet.{match['attention']}.{projection}.lora_{match['part']}.weight"


def _with_common_keys(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the group under kohya's keys. peft's magnitude becomes a dora_scale along the outputs."""
    common: dict[str, Tensor] = {}
    for suffix, tensor in group.items():
        if suffix in PEFT_MAGNITUDES:
            down = group.get("lora_A.weight", tensor)
            key, tensor = "dora_scale", tensor.reshape(-1, *(1 for _ in down.shape[1:] or (1,)))
        else:
            key = ALIASES.get(suffix, suffix)
        if key in common:
            raise ArtifactError(f"has {key} twice, one of them as {suffix}")
        common[key] = tensor
    return common

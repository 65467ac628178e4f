"""Layer names in LoRA files that ComfyUI, A1111, Forge, InvokeAI and diffusers all read.

kohya's files for SDXL use the block names of Stability's original code ("sgm"): the down path is input_blocks, the up
path output_blocks, and both count layers and samplers in one sequence. For SD1.5 and SD2 they use diffusers' block
names. SD3 has peft's dotted names, the only convention that both ComfyUI and diffusers read there.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from families.family import ModelFamily

PREFIX = "lora_unet_"
PRIOR_PREFIX, PRIOR_ENCODER_PREFIX = "lora_prior_unet_", "lora_prior_te_"
DECODER_PREFIX = "lora_decoder_unet_"
"""Prefix for the network that decodes after a prior. Other tools have no name for it."""
PRIOR_ATTENTION = {"to_q": "attn.to_q", "to_k": "attn.to_k", "to_v": "attn.to_v", "to_out.0": "attn.out_proj"}
"""diffusers' layer names in the attention of a prior, with those of ComfyUI: the original code's, with separate
queries, keys and values."""


RESNET_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""diffusers' layer names in a residual block, with those of Stability's code."""
OTHER_LAYERS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""diffusers' layer names outside of the blocks, with those of Stability's code."""


def sgm_block(path: str, layers_per_block: int) -> str:
    """Return the sgm name of a module of diffusers' SDXL UNet.

    "down_blocks.1.attentions.0.proj_in" is "input_blocks.4.1.proj_in" at two layers per block: one input block for
    conv_in, two layers and a downsampler for level 0, then level 1. Upsamplers follow a residual and an attention
    block, as in SDXL. Every name must be converted: a single one of diffusers' would make diffusers ignore all others.
    """
    per_level = layers_per_block + 1
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", path):
        way, level, part, layer, rest = match.groups()
        number = int(level) * per_level + int(layer)
        block = f"input_blocks.{1 + number}" if way == "down" else f"output_blocks.{number}"
        return f"{block}.1.{rest}" if part == "attentions" else f"{block}.0.{RESNET_LAYERS.get(rest, rest)}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", path):
        part, layer, rest = match.groups()
        if part == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * int(layer)}.{RESNET_LAYERS.get(rest, rest)}"
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", path):
        return f"input_blocks.{(int(match[1]) + 1) * per_level}.0.op"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", path):
        return f"output_blocks.{int(match[1]) * per_level + layers_per_block}.2.conv"
    return OTHER_LAYERS.get(path, path)


def kohya_name(path: str, layers_per_block: int) -> str:
    """Return the name before `.lora_down.weight` in an SDXL file."""
    return PREFIX + sgm_block(path, layers_per_block).replace(".", "_")


def decoder_name(path: str) -> str:
    """Return the name in files of a module of a decoder, whose blocks are those of a prior."""
    return _underscored(DECODER_PREFIX, native_prior_path(path))


def native_prior_path(path: str) -> str:
    """Return ComfyUI's path of a module of a prior; all other modules have the same path."""
    for ours, theirs in PRIOR_ATTENTION.items():
        if path.endswith(f".attention.{ours}"):
            return path.removesuffix(ours) + theirs
    return path


def diffusers_prior_path(path: str) -> str:
    """Return diffusers' path of a module of a prior, the inverse of `native_prior_path`."""
    for ours, theirs in PRIOR_ATTENTION.items():
        if path.endswith(f".attention.{theirs}"):
            return path.removesuffix(theirs) + ours
    return path


def file_names(family: ModelFamily) -> Mapping[str, str]:
    """Return the name in this program's files of every module of the family's denoiser, by its path."""
    paths = [path for path, _ in family.denoiser.named_modules()]
    if family.layer_naming == "kohya_sgm":
        layers_per_block = family.denoiser.config.layers_per_block
        return {path: kohya_name(path, layers_per_block) for path in paths}
    if family.layer_naming == "kohya":
        return {path: _underscored(PREFIX, path) for path in paths}
    if family.layer_naming == "kohya_prior":
        return {path: _underscored(PRIOR_PREFIX, native_prior_path(path)) for path in paths}
    if family.layer_naming == "kohya_decoder":
        return {path: decoder_name(path) for path in paths}
    return {path: f"transformer.{path}" for path in paths}


def module_paths(family: ModelFamily) -> Mapping[str, str]:
    """Return the path of every name that a file of this or another tool may use for a layer of this denoiser.

    These are this program's names, diffusers' block names in kohya's form, and peft's dotted form.
    """
    ours, paths = file_names(family), dict[str, str]()
    for path, module in family.denoiser.named_modules():
        if has_weight(module):
            for name in (ours[path], *_other_names(family, path)):
                paths[name] = path
    return paths


def has_weight(module: nn.Module) -> bool:
    """Whether a file's layer can change the module: linear, convolution and norm layers, but not embeddings."""
    return isinstance(getattr(module, "weight", None), Tensor) and not isinstance(module, nn.Embedding)


def _other_names(family: ModelFamily, path: str) -> tuple[str, ...]:
    if family.layer_naming == "peft":
        return (_underscored("lora_transformer_", path),)  # OneTrainer's names for SD3
    if family.layer_naming == "kohya_prior":
        return _underscored(PREFIX, native_prior_path(path)), f"prior.{path}"  # ComfyUI's other ones, OneTrainer's
    if family.layer_naming == "kohya_decoder":
        return _underscored(PREFIX, native_prior_path(path)), f"decoder.{path}"
    return _underscored(PREFIX, path), f"unet.{path}"


def _underscored(prefix: str, path: str) -> str:
    return prefix + path.replace(".", "_")

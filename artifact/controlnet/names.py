"""The names of a ControlNet's tensors in a single file, as ComfyUI, A1111 and diffusers' `from_single_file` read them.

ControlNets for SD1.5 and SD2 have the names of the original code (Zhang et al. 2023), those for SDXL diffusers' own:
diffusers passes over SDXL's size embedding under any other name. Those that diffusers has no class for have the names
of their original code already.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffusers import ControlNetModel
from torch import Tensor

from artifact.names.kohya import sgm_block
from families.controls.control import Bottleneck

PREFIX = "control_model."
"""Prefix of every name in some files, mostly those for SD1.5."""
FIRST_LAYERS: Mapping[Bottleneck, str] = {
    "large": "backbone.10.blocks.0.weight", "effnet": "backbone.0.0.weight", "simple": "backbone.0.weight",
}  # fmt: skip
"""Tensors that identify the network of a ControlNet where there are several. The order matters: large has all but
one."""
REAL_WIDTHS = ((320, 640, 1280, 1280), (320, 640, 1280))
"""Channels of the UNets of SD1.5 and SD2, and of SDXL."""
PROJECTION = re.compile(r"projections\.(\d+)\.0\.weight")
MARKS = ("zero_convs", "controlnet_", "projections.")
"""Parts of names that only ControlNets have."""


def single_file_names(controlnet: Any, names: Iterable[str]) -> dict[str, str]:
    """The names that we write, by the network's own. Those of SDXL's ControlNets, which read its size conditioning, and
    of classes that diffusers lacks are the same."""
    if not in_diffusers(controlnet) or controlnet.config.addition_embed_type == "text_time":
        return {name: name for name in names}
    return other_names(controlnet, names)


def other_names(controlnet: Any, names: Iterable[str]) -> dict[str, str]:
    """The names of the original code, by the network's own."""
    if not in_diffusers(controlnet):
        return {name: name for name in names}
    return stability_names(names, controlnet.config.layers_per_block)


def in_diffusers(controlnet: Any) -> bool:
    """Whether it is a class of diffusers, which loads it from a folder."""
    return isinstance(controlnet, ControlNetModel)


def opens_in_comfyui(controlnet: Any) -> bool:
    """Whether ComfyUI, and where diffusers has the class A1111 and Forge, recognise its file: by the sizes of real
    bases."""
    if in_diffusers(controlnet):
        return tuple(controlnet.config.block_out_channels) in REAL_WIDTHS
    return bool(controlnet.opens_in_comfyui)


def bottleneck_of(tensors: Mapping[str, Tensor]) -> Bottleneck:
    """The network of a file's ControlNet; effnet if its tensors do not determine it."""
    return next((kind for kind, name in FIRST_LAYERS.items() if name in tensors), "effnet")


def channels_of(tensors: Mapping[str, Tensor], bottleneck: Bottleneck) -> int:
    """The number of input channels of a file's ControlNet; 0 if its tensors do not determine it."""
    first = tensors.get(FIRST_LAYERS[bottleneck])
    return 0 if first is None or first.ndim != 4 else int(first.shape[1])


def count_projections(tensors: Iterable[str]) -> int:
    """The number of blocks to which a file's ControlNet adds its outputs; 0 for other kinds."""
    return sum(PROJECTION.fullmatch(name) is not None for name in tensors)


def stability_names(names: Iterable[str], layers_per_block: int) -> dict[str, str]:
    """The name in a single file of each tensor of diffusers' `ControlNetModel`, by its name there."""
    names = list(names)
    embedding_layers = len(
        [name for name in names if re.fullmatch(r"controlnet_cond_embedding\.blocks\.\d+\.weight", name)]
    )
    return {name: _stability_name(name, layers_per_block, embedding_layers) for name in names}


def _stability_name(name: str, layers_per_block: int, embedding_layers: int) -> str:
    path, _, parameter = name.rpartition(".")
    return f"{_block(path, layers_per_block, embedding_layers)}.{parameter}"


def _block(path: str, layers_per_block: int, embedding_layers: int) -> str:
    """Between two layers of the image embedding there is an activation, which is counted in the original names."""
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", path):
        return f"zero_convs.{match[1]}.0"
    if path == "controlnet_mid_block":
        return "middle_block_out.0"
    if match := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)", path):
        return f"input_hint_block.{2 * (int(match[1]) + 1)}"
    ends = {
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * (embedding_layers + 1)}",
    }
    return ends.get(path) or sgm_block(path, layers_per_block)

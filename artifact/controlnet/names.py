"""The names of a ControlNet's tensors in a single file, as ComfyUI, A1111 and diffusers' `from_single_file` read them.

ControlNets for SD1.5 and SD2 have the names of the original code (Zhang et al. 2023), those for SDXL diffusers' own:
diffusers passes over SDXL's size embedding under any other name.
"""

import re
from collections.abc import Iterable

from artifact.names.kohya import sgm_block

PREFIX = "control_model."
"""Before every name in some files, those of SD1.5 above all."""


def single_file_names(names: Iterable[str], layers_per_block: int, *, sizes: bool) -> dict[str, str]:
    """The names that we write, by diffusers'. `sizes`: the ControlNet reads SDXL's size conditioning."""
    return {name: name for name in names} if sizes else stability_names(names, layers_per_block)


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
    """Between two layers of the embedding of the picture stands an activation, which counts in the original names."""
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

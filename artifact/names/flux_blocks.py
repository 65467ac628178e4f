"""FLUX's layers with the names of the original code, as kohya's sd-scripts, musubi-tuner and ai-toolkit write them.

`lora_unet_double_blocks_0_img_attn_qkv` or `diffusion_model.double_blocks.0.img_attn.qkv`. There the queries, keys and
values of an attention are one layer: its LoRA is three, with one `down` and a third of `up` each. In the single blocks
FLUX.1 has a fourth part, four times as wide; FLUX.2's layer is joined in diffusers, too.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from families.loading.flux_names import AROUND, BLOCKS, DOUBLE, FUSED, PARTS_OF_LINEAR1, SINGLE

PREFIXES = ("lora_unet_", "diffusion_model.", "transformer.")
"""kohya's, with `_` for every dot; ComfyUI's and ai-toolkit's; and the original names with diffusers' prefix."""
BLOCK = re.compile(r"(?P<kind>double|single)_blocks[._](?P<number>\d+)[._](?P<layer>.+)")
FLUX2_DOUBLE = {
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
FLUX2_SINGLE = {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"}
FLUX2_AROUND = {
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
}


def with_diffusers_names(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return FLUX's layers of that naming under the names of diffusers and of this program's files, and all others
    unchanged. Raises ArtifactError for a joined layer that is not a plain LoRA."""
    if not any(BLOCK.match(_bare(name)) for name in layers):
        return dict(layers)
    second = _is_second(layers)
    return {new: part for name, layer in layers.items() for new, part in _renamed(name, layer, second)}


def _bare(name: str) -> str:
    prefix = next((each for each in PREFIXES if name.startswith(each)), None)
    return "" if prefix is None else name.removeprefix(prefix)


def _is_second(layers: Mapping[str, Layer]) -> bool:
    """Whether it is FLUX.2, by the first layer whose shape differs between the two, in multiples of the transformer's
    width: `linear1` has 7 rows in FLUX.1 and 9 in FLUX.2, `linear2` reads 5 and 4, the feed-forward's first layer has 4
    and 6.
    """
    for name, layer in layers.items():
        if not isinstance(layer, LoraLayer):
            continue
        bare, rows, columns = _bare(name), layer.up.shape[0], layer.down.shape[1]
        if re.search(r"single_blocks[._]\d+[._]linear1$", bare):
            return rows != PARTS_OF_LINEAR1 * columns
        if re.search(r"single_blocks[._]\d+[._]linear2$", bare):
            return columns != 5 * rows
        if re.search(r"double_blocks[._]\d+[._](img|txt)_mlp[._]0$", bare):
            return rows != 4 * columns
        if "_modulation_" in bare:
            return True
    return False


def _renamed(name: str, layer: Layer, second: bool) -> Iterator[tuple[str, Layer]]:
    bare = _bare(name)
    block = BLOCK.fullmatch(bare)
    if block is None:
        around = _underscored({**AROUND, **FLUX2_AROUND} if second else AROUND)
        path = around.get(bare.replace(".", "_"))
        turned = path == "norm_out.linear"
        yield (f"transformer.{path}" if path else name), _turned(name, layer) if turned else layer
        return
    own = f"transformer.{BLOCKS[block['kind']]}.{block['number']}"
    double = {**DOUBLE, **FLUX2_DOUBLE} if second else DOUBLE
    single = {**SINGLE, **FLUX2_SINGLE} if second else SINGLE
    names = _underscored(double if block["kind"] == "double" else single)
    key = block["layer"].replace(".", "_")
    joined = next((parts for layer_name, parts in FUSED.items() if layer_name.replace(".", "_") == key), None)
    if joined is None or key in names:
        yield (f"{own}.{names[key]}" if key in names else name), layer
        return
    lora = _plain(name, layer)
    for path, up in zip(joined, _parts(name, lora.up, len(joined)), strict=True):
        yield f"{own}.{path}", replace(lora, up=up.contiguous())


def _parts(name: str, up: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    widths = PARTS_OF_LINEAR1 if count == 4 else count
    if up.shape[0] % widths:
        raise ArtifactError(f"{name} has {up.shape[0]} outputs, which cannot be split into queries, keys and values")
    width = up.shape[0] // widths
    return up.split([width] * 3 + ([4 * width] if count == 4 else []))


def _underscored(names: Mapping[str, str]) -> dict[str, str]:
    return {name.replace(".", "_"): path for name, path in names.items()}


def _turned(name: str, layer: Layer) -> Layer:
    """Swap scale and shift to diffusers' order."""
    lora = _plain(name, layer)
    return replace(lora, up=torch.cat(lora.up.chunk(2)[::-1]))


def _plain(name: str, layer: Layer) -> LoraLayer:
    if not isinstance(layer, LoraLayer) or layer.mid is not None:
        raise ArtifactError(f"{name} is a {layer.kind} layer; only plain LoRA is supported for FLUX's joined layers")
    return layer

"""Converts diffusers' layer names of transformers to those of kohya's sd-scripts, musubi-tuner and ai-toolkit.

For FLUX these are the names of the original code, in which queries, keys and values of an attention are one layer, in
FLUX.1's single blocks joined with the first layer of the feed-forward part. For Qwen-Image and Z-Image they are
diffusers' names (musubi-tuner, ai-toolkit), and for FLUX.1 in ai-toolkit, too (see `convert_lora_weights_before_save`
of its models).
"""

import re
from collections.abc import Mapping, Sequence

import torch

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from artifact.names.flux_blocks import FLUX2_AROUND, FLUX2_DOUBLE, FLUX2_SINGLE
from families.loading.flux_names import AROUND, BLOCKS, DOUBLE, FUSED, SINGLE
from families.lora_files import FLUX1, FLUX2, QWEN_IMAGE, Z_IMAGE

PREFIX, OURS, AI_TOOLKIT = "lora_unet_", "transformer.", "diffusion_model."
FAMILIES = (FLUX1, FLUX2, QWEN_IMAGE, Z_IMAGE)
"""Families whose names in the files of kohya, musubi-tuner and ai-toolkit are known."""
FEED_FORWARD = "proj_mlp"
"""The part of FLUX.1's `linear1` that is four times as wide as the queries."""
BLOCK = re.compile(r"(?P<blocks>(?:single_)?transformer_blocks)\.(?P<number>\d+)\.(?P<path>.+)")
TURNED = "norm_out.linear"
"""Its shift precedes its scale in the original code."""


def kohya_layers(layers: Mapping[str, Layer], family: str) -> dict[str, Layer]:
    """Return the layers of `transformer.…` under those names. `family`: one of FAMILIES.

    Layers of one `down` and one scale are joined in their rank; others beside each other, in the sum of their ranks, so
    that no change is lost. Raises ArtifactError for layers of other components, and for parts of a joined layer that
    are no plain LoRA.
    """
    paths = _of_transformer(layers, "kohya's")
    if family in (FLUX1, FLUX2):
        paths = _with_makers_names(paths, second=family == FLUX2)
    return {PREFIX + path.replace(".", "_"): layer for path, layer in paths.items()}


def ai_toolkit_layers(layers: Mapping[str, Layer], family: str) -> dict[str, Layer]:
    """As `kohya_layers`, under the names of ai-toolkit. FLUX.1 has diffusers' own there."""
    paths = _of_transformer(layers, "ai-toolkit's")
    if family == FLUX1:
        return dict(layers)
    if family == FLUX2:
        paths = _with_makers_names(paths, second=True)
    return {AI_TOOLKIT + path: layer for path, layer in paths.items()}


def _of_transformer(layers: Mapping[str, Layer], tool: str) -> dict[str, Layer]:
    """The layers by path. Raises ArtifactError for layers of other components."""
    strange = next((name for name in layers if not name.startswith(OURS)), None)
    if strange is not None:
        raise ArtifactError(
            f"{strange}: {tool} names only exist for layers of the transformer. Use --format diffusers."
        )
    return {name.removeprefix(OURS): layer for name, layer in layers.items()}


def _with_makers_names(paths: Mapping[str, Layer], *, second: bool) -> dict[str, Layer]:
    around = _reversed({**AROUND, **FLUX2_AROUND} if second else AROUND)
    double = _reversed({**DOUBLE, **FLUX2_DOUBLE} if second else DOUBLE)
    single = _reversed({**SINGLE, **FLUX2_SINGLE} if second else SINGLE)
    kinds = {blocks: kind for kind, blocks in BLOCKS.items()}
    found: dict[str, Layer] = {}
    joined: dict[str, dict[str, LoraLayer]] = {}
    for path, layer in paths.items():
        block = BLOCK.fullmatch(path)
        if block is None:
            known = around.get(path)
            found[_known(path, known)] = _turned(path, layer) if path == TURNED else layer
            continue
        kind = kinds[block["blocks"]]
        own = f"{kind}_blocks.{block['number']}"
        whole = None if second and kind == "single" else _joined_name(block["path"], kind)
        if whole is None:
            name = (double if kind == "double" else single).get(block["path"])
            found[_known(path, None if name is None else f"{own}.{name}")] = layer
        else:
            joined.setdefault(f"{own}.{whole}", {})[block["path"]] = _plain(path, layer)
    for name, parts in joined.items():
        found[name] = _join(parts, FUSED[name.split(".", 2)[2]])
    return found


def _joined_name(path: str, kind: str) -> str | None:
    """The layer of the original code that contains this part, in a block of this kind."""
    names = ("linear1",) if kind == "single" else ("img_attn.qkv", "txt_attn.qkv")
    return next((name for name in names if path in FUSED[name]), None)


def _join(parts: Mapping[str, LoraLayer], order: Sequence[str]) -> LoraLayer:
    """One layer made of the parts, concatenated in `order`. Missing parts are zero."""
    width = next(_width(path, layer) for path, layer in parts.items())
    heights = {path: width * (4 if path == FEED_FORWARD else 1) for path in order}
    layers = list(parts.values())
    first = layers[0]
    if all(each.scale == first.scale and torch.equal(each.down, first.down) for each in layers[1:]):
        ups = [parts[path].up if path in parts else first.up.new_zeros(heights[path], first.rank) for path in order]
        return LoraLayer(first.down, torch.cat(ups), first.alpha)
    rank, begin = sum(each.rank for each in layers), 0
    up = torch.zeros(sum(heights.values()), rank)
    rows = dict(zip(order, _starts([heights[path] for path in order]), strict=True))
    for path, layer in parts.items():
        up[rows[path] : rows[path] + heights[path], begin : begin + layer.rank] = layer.up.float() * layer.scale
        begin += layer.rank
    return LoraLayer(torch.cat([each.down for each in layers]), up, float(rank))


def _width(path: str, layer: LoraLayer) -> int:
    return layer.up.shape[0] // (4 if path == FEED_FORWARD else 1)


def _starts(heights: Sequence[int]) -> list[int]:
    return [sum(heights[:number]) for number in range(len(heights))]


def _known(path: str, name: str | None) -> str:
    if name is None:
        raise ArtifactError(f"{path}: has no name in FLUX's original code. Use --format diffusers.")
    return name


def _turned(path: str, layer: Layer) -> Layer:
    lora = _plain(path, layer)
    return LoraLayer(lora.down, torch.cat(lora.up.chunk(2)[::-1]), lora.alpha)


def _plain(path: str, layer: Layer) -> LoraLayer:
    if not isinstance(layer, LoraLayer) or layer.mid is not None:
        raise ArtifactError(
            f"{path} is a {layer.kind} layer, which cannot be joined with others, as kohya's names for FLUX require. "
            "Convert it to a plain LoRA first: python -m artifact resize FILE OUT --rank R --base BASE"
        )
    return layer


def _reversed(names: Mapping[str, str]) -> dict[str, str]:
    return {path: name for name, path in names.items()}

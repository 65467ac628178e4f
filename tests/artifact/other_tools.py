"""Names that the loaders of ComfyUI and A1111 accept, by the rules from which both build their tables.

ComfyUI (comfy/lora.py, comfy/utils.py) accepts, with `_` instead of `.`:
    lora_unet_ + the module's path in Stability's original UNet,
    lora_unet_ + its path in diffusers' UNet,
    lora_te_ or lora_te1_ (first encoder), lora_te2_ (second) + text_model_encoder_layers_N_ + one of six layers,
and unchanged:
    transformer. + the module's path in diffusers' SD3 transformer,
    text_encoder. (first), text_encoder_2. (second) + text_model.encoder.layers.N. + one of the six.
A1111 (extensions-builtin/Lora/networks.py) accepts for SDXL only the first of these for the UNet, and for SD1.5 the
second; for text encoders lora_te_ (SD1.5), lora_te1_ and lora_te2_ (SDXL).

The names below follow the order in which Stability's code builds the UNet. They do not use our own conversion.
"""

import re
from collections.abc import Iterator
from typing import Any

CLIP_LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TRANSFORMER = (
    *(f"attn{number}.{layer}" for number in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"),
)
AROUND = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
SD3_BLOCK = (
    *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")),
    *(f"attn.{name}" for name in ("to_add_out", "norm_q", "norm_k", "norm_added_q", "norm_added_k")),
    *(f"attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    *("norm1.linear", "norm1_context.linear"),
)
SD3_AROUND = (
    *("context_embedder", "pos_embed.proj", "norm_out.linear", "proj_out"),
    *(f"time_text_embed.{part}.linear_{n}" for part in ("timestep_embedder", "text_embedder") for n in (1, 2)),
)


def original_unet_names(config: Any) -> Iterator[tuple[str, str]]:
    """Yield (path in Stability's UNet, path in diffusers' UNet) for each layer that this configuration can have."""
    yield from ((original, path) for path, original in AROUND.items())
    levels, layers = len(config.block_out_channels), config.layers_per_block
    depths = config.transformer_layers_per_block
    depth = [depths] * levels if isinstance(depths, int) else list(depths)
    number = 1
    for level, kind in enumerate(config.down_block_types):
        for layer in range(layers):
            yield from _block(
                f"input_blocks.{number}", f"down_blocks.{level}", layer, "CrossAttn" in kind, depth[level]
            )
            number += 1
        if level < levels - 1:
            yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield from _transformer("middle_block.1", "mid_block.attentions.0", depth[-1])
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    number = 0
    for level, kind in enumerate(config.up_block_types):
        attention = "CrossAttn" in kind
        for layer in range(layers + 1):
            yield from _block(f"output_blocks.{number}", f"up_blocks.{level}", layer, attention, depth[-1 - level])
            if layer == layers and level < levels - 1:
                place = 2 if attention else 1
                yield f"output_blocks.{number}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            number += 1


def comfyui_unet(config: Any) -> set[str]:
    """Return the names before `.lora_up.weight`, `.diff` … that ComfyUI accepts for a UNet."""
    pairs = list(original_unet_names(config))
    return {_kohya("lora_unet_", name) for pair in pairs for name in pair}


def a1111_unet(config: Any, family: str) -> dict[str, str]:
    """Return the names that A1111 accepts, with diffusers' path of the module."""
    return {
        _kohya("lora_unet_", original if family == "sdxl" else path): path
        for original, path in original_unet_names(config)
    }


def clip_names(family: str, encoder: int, layers: int) -> set[str]:
    """Return the names that ComfyUI and A1111 accept for a text encoder (counted from 1); for SD3, ComfyUI's."""
    paths = [f"text_model.encoder.layers.{layer}.{name}" for layer in range(layers) for name in CLIP_LAYERS]
    if family == "sd3":
        return {f"text_encoder{'' if encoder == 1 else '_2'}.{path}" for path in paths}
    prefix = "lora_te_" if family == "sd15" else f"lora_te{encoder}_"
    return {_kohya(prefix, path) for path in paths}


def comfyui_sd3(config: Any) -> set[str]:
    """Return ComfyUI's names for an SD3 transformer."""
    blocks = (f"transformer_blocks.{block}.{name}" for block in range(config.num_layers) for name in SD3_BLOCK)
    return {f"transformer.{path}" for path in (*SD3_AROUND, *blocks)}


def _block(original: str, block: str, layer: int, attention: bool, depth: int) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{original}.0", f"{block}.resnets.{layer}")
    if attention:
        yield from _transformer(f"{original}.1", f"{block}.attentions.{layer}", depth)


def _resnet(original: str, path: str) -> Iterator[tuple[str, str]]:
    return ((f"{original}.{name}", f"{path}.{layer}") for layer, name in RESNET.items())


def _transformer(original: str, path: str, depth: int) -> Iterator[tuple[str, str]]:
    for layer in ("norm", "proj_in", "proj_out"):
        yield f"{original}.{layer}", f"{path}.{layer}"
    for number in range(depth):
        for layer in TRANSFORMER:
            yield f"{original}.transformer_blocks.{number}.{layer}", f"{path}.transformer_blocks.{number}.{layer}"


def _kohya(prefix: str, path: str) -> str:
    return prefix + re.sub(r"\.", "_", path)

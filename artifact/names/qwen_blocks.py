"""Qwen-Image's layers with the prefixes of other tools.

The names of the original code are those of diffusers. musubi-tuner writes them as
`lora_unet_transformer_blocks_0_attn_to_q`, SimpleTuner's LyCORIS as `lycoris_…`, OneTrainer as `lora_transformer_…`,
ai-toolkit as `diffusion_model.transformer_blocks.0.attn.to_q`, DiffSynth without a prefix. Our own files have
`transformer.…`.
"""

import re
from collections.abc import Mapping

from artifact.layers import Layer

PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_", "diffusion_model.", "transformer.", "")
BLOCK = re.compile(r"transformer_blocks[._](?P<number>\d+)[._](?P<layer>.+)")
IN_BLOCK = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1"),
)
AROUND = (
    *("img_in", "txt_in", "proj_out", "norm_out.linear"),
    *("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2"),
)
LAYERS, OUTSIDE = ({path.replace(".", "_"): path for path in paths} for paths in (IN_BLOCK, AROUND))


def with_diffusers_names(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return the layers under the names of this program's files, if they contain such blocks; all others unchanged."""
    if not any(BLOCK.fullmatch(_bare(name)) for name in layers):
        return dict(layers)
    return {_renamed(name): layer for name, layer in layers.items()}


def _bare(name: str) -> str:
    return name.removeprefix(next(prefix for prefix in PREFIXES if name.startswith(prefix)))


def _renamed(name: str) -> str:
    bare = _bare(name)
    block = BLOCK.fullmatch(bare)
    if block is None:
        path = OUTSIDE.get(bare.replace(".", "_"))
        return name if path is None else f"transformer.{path}"
    layer = LAYERS.get(block["layer"].replace(".", "_"))
    return name if layer is None else f"transformer.transformer_blocks.{block['number']}.{layer}"

"""Z-Image's layers with the prefixes of other tools, and with the names of the original code.

musubi-tuner writes `lora_unet_layers_0_attention_to_q`, OneTrainer `lora_transformer_…`, LyCORIS `lycoris_…`,
ai-toolkit `diffusion_model.layers.0.attention.to_q`. Files for ComfyUI may have `attention.qkv` and `attention.out`
instead, as in the original code: queries, keys and values are one layer there, whose LoRA becomes three with the same
`down` and a third of `up` each. Our own files have `transformer.layers.0.attention.to_q`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer

PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_", "diffusion_model.", "transformer.", "")
BLOCK = re.compile(r"(?P<blocks>layers|noise_refiner|context_refiner)[._](?P<number>\d+)[._](?P<layer>.+)")
IN_BLOCK = {
    **{f"attention.{part}": f"attention.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")},
    "attention.out": "attention.to_out.0",
    **{f"feed_forward.w{number}": f"feed_forward.w{number}" for number in (1, 2, 3)},
    "adaLN_modulation.0": "adaLN_modulation.0",
}
"""Names inside a block, of diffusers and of the original code, with diffusers' names."""
JOINED = "attention.qkv"
PARTS = ("attention.to_q", "attention.to_k", "attention.to_v")
AROUND = {
    "all_x_embedder.2-1": "all_x_embedder.2-1",
    "x_embedder": "all_x_embedder.2-1",
    "all_final_layer.2-1.linear": "all_final_layer.2-1.linear",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    **{path: path for path in ("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")},
}
LAYERS, OUTSIDE = ({name.replace(".", "_"): path for name, path in names.items()} for names in (IN_BLOCK, AROUND))


def with_diffusers_names(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return the layers under the names of this program's files, if they contain such blocks; all others unchanged.
    Raises ArtifactError for a joined layer that is not a plain LoRA."""
    if not any(_is_ours(name) for name in layers):
        return dict(layers)
    return {new: part for name, layer in layers.items() for new, part in _renamed(name, layer)}


def _is_ours(name: str) -> bool:
    block = BLOCK.fullmatch(_bare(name))
    return block is not None and _key(block) in {*LAYERS, JOINED.replace(".", "_")}


def _bare(name: str) -> str:
    return name.removeprefix(next(prefix for prefix in PREFIXES if name.startswith(prefix)))


def _key(block: re.Match[str]) -> str:
    return block["layer"].replace(".", "_")


def _renamed(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    block = BLOCK.fullmatch(_bare(name))
    if block is None:
        path = OUTSIDE.get(_bare(name).replace(".", "_"))
        yield name if path is None else f"transformer.{path}", layer
        return
    own = f"transformer.{block['blocks']}.{block['number']}"
    if _key(block) != JOINED.replace(".", "_"):
        known = LAYERS.get(_key(block))
        yield name if known is None else f"{own}.{known}", layer
        return
    if not isinstance(layer, LoraLayer) or layer.mid is not None:
        raise ArtifactError(f"{name} is a {layer.kind} layer; only plain LoRA is supported for Z-Image's joined layers")
    if layer.up.shape[0] % len(PARTS):
        raise ArtifactError(
            f"{name} has {layer.up.shape[0]} outputs, which cannot be split into queries, keys and values"
        )
    for path, up in zip(PARTS, layer.up.chunk(len(PARTS)), strict=True):
        yield f"{own}.{path}", replace(layer, up=up.contiguous())

"""ComfyUI's rules for the layers of FLUX transformers in a LoRA file.

A file's layer `transformer.X` changes all rows or some rows of a tensor with a name of the makers' code.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

ATTENTION = {"img": ("to_q", "to_k", "to_v"), "txt": ("add_q_proj", "add_k_proj", "add_v_proj")}


class Target(NamedTuple):
    """The part of a tensor that a layer changes. `rows`: the first row and their number; None: the whole tensor."""

    tensor: str
    rows: tuple[int, int] | None


def comfyui_flux(double: int, single: int, width: int) -> Mapping[str, Target]:
    """Return the table for a transformer with these numbers of blocks. FLUX.1 and FLUX.2 share it."""
    table = dict(_outside())
    for number in range(double):
        block, to = f"transformer_blocks.{number}", f"double_blocks.{number}"
        for stream, parts in ATTENTION.items():
            for place, part in enumerate(parts):
                table[f"{block}.attn.{part}"] = Target(f"{to}.{stream}_attn.qkv", (place * width, width))
        for stream, ending, feed in (("img", "to_out.0", "ff"), ("txt", "to_add_out", "ff_context")):
            table[f"{block}.attn.{ending}"] = Target(f"{to}.{stream}_attn.proj", None)
            norm = "norm1" if stream == "img" else "norm1_context"
            table[f"{block}.{norm}.linear"] = Target(f"{to}.{stream}_mod.lin", None)
            for layer, names in ((0, ("net.0.proj", "linear_in")), (2, ("net.2", "linear_out"))):
                table |= {f"{block}.{feed}.{name}": Target(f"{to}.{stream}_mlp.{layer}", None) for name in names}
    for number in range(single):
        block, to = f"single_transformer_blocks.{number}", f"single_blocks.{number}"
        for place, part in enumerate(ATTENTION["img"]):
            table[f"{block}.attn.{part}"] = Target(f"{to}.linear1", (place * width, width))
        table[f"{block}.proj_mlp"] = Target(f"{to}.linear1", (3 * width, 4 * width))
        table[f"{block}.attn.to_qkv_mlp_proj"] = Target(f"{to}.linear1", None)
        table |= {f"{block}.{name}": Target(f"{to}.linear2", None) for name in ("proj_out", "attn.to_out")}
        table[f"{block}.norm.linear"] = Target(f"{to}.modulation.lin", None)
    return {f"transformer.{path}": target for path, target in table.items()}


def _outside() -> Iterator[tuple[str, Target]]:
    yield "proj_out", Target("final_layer.linear", None)
    yield "norm_out.linear", Target("final_layer.adaLN_modulation.1", None)
    yield "x_embedder", Target("img_in", None)
    yield "context_embedder", Target("txt_in", None)
    for embedder, name in (("timestep", "time_in"), ("text", "vector_in"), ("guidance", "guidance_in")):
        for number, layer in ((1, "in_layer"), (2, "out_layer")):
            yield f"time_text_embed.{embedder}_embedder.linear_{number}", Target(f"{name}.{layer}", None)

"""Writes a tiny base model as a single file with the tensor names of Stability's original code, as in shared files.

This is the reverse of diffusers' `from_single_file`, for the layouts of `tests.tiny_models` only.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from torch import Tensor

from artifact.names.kohya import sgm_block
from families.family import ModelFamily

Tensors = dict[str, Tensor]


def write_single_file(family: ModelFamily, path: Path, marks: Iterable[str] = ()) -> Path:
    """Write the file and return its path. `marks`: names of further tensors, such as `v_pred` and `ztsnr`, whose
    presence states the prediction type and zero terminal SNR."""
    pipeline = family.pipeline()
    tensors = _prefixed("first_stage_model.", _vae(pipeline.vae))
    if family.name == "sd3":
        tensors |= _prefixed("model.diffusion_model.", _sd3_transformer(pipeline.transformer))
        tensors |= _prefixed("text_encoders.clip_l.transformer.", pipeline.text_encoder.state_dict())
        tensors |= _prefixed("text_encoders.clip_g.transformer.", pipeline.text_encoder_2.state_dict())
        if pipeline.text_encoder_3 is not None:
            tensors |= _prefixed("text_encoders.t5xxl.transformer.", pipeline.text_encoder_3.state_dict())
    else:
        tensors |= _prefixed("model.diffusion_model.", _unet(pipeline.unet))
        tensors |= _sd_text_encoders(family)
    tensors |= {mark: torch.zeros(1) for mark in marks}
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)
    return path


def _sd_text_encoders(family: ModelFamily) -> Tensors:
    if family.name == "sdxl":
        first, second = family.text_encoders
        prefix = "conditioner.embedders.0.transformer.text_model."
        return _prefixed(prefix, first.state_dict()) | _prefixed("conditioner.embedders.1.model.", _open_clip(second))
    (encoder,) = family.text_encoders
    if family.encoder_names == ("clip_h",):
        return _prefixed("cond_stage_model.model.", _open_clip(encoder))
    return _prefixed("cond_stage_model.transformer.text_model.", encoder.state_dict())


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _unet(unet: Any) -> Tensors:
    per_level = unet.config.layers_per_block + 1
    mapping = DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"] | DIFFUSERS_TO_LDM_MAPPING["unet"]["addition_embed_type"]
    tensors: Tensors = {}
    for name, tensor in unet.state_dict().items():
        if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name):
            level = int(match[1])
            place = 2 if hasattr(unet.up_blocks[level], "attentions") else 1
            tensors[f"output_blocks.{(level + 1) * per_level - 1}.{place}.{match[2]}"] = tensor
        elif name in mapping:
            tensors[mapping[name]] = tensor
        else:
            path, _, kind = name.rpartition(".")
            block = sgm_block(path, unet.config.layers_per_block)
            if ".resnets." in path:
                block = block.replace(".norm1", ".in_layers.0").replace(".norm2", ".out_layers.0")
            tensors[f"{block}.{kind}"] = tensor
    return tensors


VAE_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}


def _vae(vae: Any) -> Tensors:
    levels = len(vae.config.block_out_channels)
    mapping = DIFFUSERS_TO_LDM_MAPPING["vae"]
    tensors: Tensors = {}
    for name, tensor in vae.state_dict().items():
        if name in mapping:
            tensors[mapping[name]] = tensor
            continue
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
        if "mid.attn_1" in new:
            for theirs, ours in VAE_ATTENTION.items():
                new = new.replace(f".{theirs}.", f".{ours}.")
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        tensors[new] = tensor
    return tensors


def _open_clip(encoder: Any) -> Tensors:
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in encoder.state_dict().items()}
    if "text_model.text_projection.weight" in state:
        state["text_projection.weight"] = state.pop("text_model.text_projection.weight").T
    tensors: Tensors = {}
    for name, new in DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"].items():
        if name in state:
            tensors[new] = state.pop(name)
    for name in sorted(state):
        new = name
        for theirs, ours in DIFFUSERS_TO_LDM_MAPPING["openclip"]["transformer"].items():
            new = new.replace(theirs, ours)
        if match := re.fullmatch(r"(.*\.attn)\.q_proj\.(weight|bias)", new):
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            tensors[f"transformer.{match[1]}.in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"\.attn\.[kv]_proj\.", new):
            tensors[f"transformer.{new}"] = state[name]
    return tensors


SD3_NAMES = (
    ("pos_embed.pos_embed", "pos_embed"),
    ("context_embedder", "context_embedder"),
    ("proj_out", "final_layer.linear"),
    ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ("ff.net.0.proj", "x_block.mlp.fc1"),
    ("ff.net.2", "x_block.mlp.fc2"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
    ("attn.to_out.0", "x_block.attn.proj"),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("attn2.to_out.0", "x_block.attn2.proj"),
    ("attn.norm_q", "x_block.attn.ln_q"),
    ("attn.norm_k", "x_block.attn.ln_k"),
    ("attn.norm_added_q", "context_block.attn.ln_q"),
    ("attn.norm_added_k", "context_block.attn.ln_k"),
    ("attn2.norm_q", "x_block.attn2.ln_q"),
    ("attn2.norm_k", "x_block.attn2.ln_k"),
)
SD3_QUERIES = {
    "attn.to_q": ("x_block.attn.qkv", ("to_q", "to_k", "to_v")),
    "attn2.to_q": ("x_block.attn2.qkv", ("to_q", "to_k", "to_v")),
    "attn.add_q_proj": ("context_block.attn.qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
}


def _sd3_transformer(transformer: Any) -> Tensors:
    state, names = transformer.state_dict(), dict(SD3_NAMES)
    last = f"joint_blocks.{transformer.config.num_layers - 1}."
    tensors: Tensors = {}
    for name, tensor in state.items():
        match = re.match(r"transformer_blocks\.(\d+)\.(.*)", name)
        prefix, rest = (f"joint_blocks.{match[1]}.", match[2]) if match else ("", name)
        path, _, kind = rest.rpartition(".")
        if path in SD3_QUERIES:
            new, parts = SD3_QUERIES[path]
            stem = name.removesuffix(f"{path}.{kind}") + path.split(".")[0]
            tensors[f"{prefix}{new}.{kind}"] = torch.cat([state[f"{stem}.{part}.{kind}"] for part in parts])
        elif rest in names:
            tensors[names[rest]] = tensor
        elif path in names:
            if path == "norm_out.linear" or (path == "norm1_context.linear" and prefix == last):
                tensor = torch.cat(tensor.chunk(2, dim=0)[::-1])  # shift and scale are in reverse order
            tensors[f"{prefix}{names[path]}.{kind}"] = tensor
    return tensors

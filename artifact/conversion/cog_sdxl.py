"""Writes the tar that Replicate's SDXL predictors load (cog-sdxl): LoRA, embeddings and triggers in a file each.

The predictor builds one attention processor for every attention of the UNet, with a single rank and without alpha, so
every attention must have all four projections in one rank (replicate/cog-sdxl, predict.py, load_trained_weights).
"""

import io
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from artifact.conversion.files import LoraFile, require_free
from artifact.conversion.module_names import parse
from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer
from families.lora_files import COG_SDXL

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
ATTENTION = re.compile(r"(?P<attention>.+\.attn[12])\.(?P<projection>to_q|to_k|to_v|to_out)(\.0)?")
ENCODERS = ("clip_l", "clip_g")


def to_cog_sdxl(file: LoraFile, path: Path) -> None:
    """Write the tar. Raises ArtifactError for contents that its predictor would not load, or would ignore silently."""
    require_free(path)
    if file.family != COG_SDXL or not file.artifact.layers:
        raise ArtifactError("cog-sdxl only supports LoRAs for SDXL with trigger words; this file is not one")
    if missing := [name for name in ENCODERS if name not in file.artifact.tokens]:
        raise ArtifactError(f"cog-sdxl needs token embeddings, and the file has none for {missing[0]}")
    rows = {f"text_encoders_{index}": file.artifact.tokens[name] for index, name in enumerate(ENCODERS)}
    triggers = {trigger: "".join(names) for trigger, names in file.artifact.triggers.items()}
    members = {
        "lora.safetensors": save(processor_tensors(file.artifact.layers)),
        "embeddings.pti": save({name: table.float().contiguous() for name, table in rows.items()}),
        "special_params.json": json.dumps(triggers).encode(),
    }
    _write_tar(members, path)


def processor_tensors(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Return the layers under the names of diffusers' former attention processors, with alpha / rank folded in,
    fp32."""
    tensors: dict[str, Tensor] = {}
    ranks: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, layer in layers.items():
        component, module = parse(name)
        match = ATTENTION.fullmatch(module)
        if component != "unet" or match is None or not isinstance(layer, LoraLayer) or layer.mid is not None:
            raise ArtifactError(f"{name}: cog-sdxl only supports plain LoRA on the UNet's attention")
        key = f"{match['attention']}.processor.{match['projection']}_lora"
        ranks[match["attention"]][match["projection"]] = layer.rank
        tensors[f"{key}.down.weight"] = layer.down.float().contiguous()
        tensors[f"{key}.up.weight"] = (layer.up.float() * layer.scale).contiguous()
    for attention, found in ranks.items():
        if len(found) < len(PROJECTIONS) or len(set(found.values())) > 1:
            raise ArtifactError(f"{attention}: cog-sdxl needs {', '.join(PROJECTIONS)}, all of the same rank")
    if bad := next((key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()), None):
        raise ArtifactError(f"{bad} would not be finite; nothing was written")
    return tensors


def _write_tar(members: Mapping[str, bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with tarfile.open(unfinished, "w") as tar:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

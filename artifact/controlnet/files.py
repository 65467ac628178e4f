"""Loads a ControlNet's file for a base model, and writes it as a single file and as a folder of diffusers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artifact.artifact import PRECISIONS
from artifact.controlnet.names import (
    MARKS,
    PREFIX,
    bottleneck_of,
    channels_of,
    count_projections,
    other_names,
    single_file_names,
)
from artifact.errors import ArtifactError
from artifact.metadata import ArtifactDescription, from_header, own_header, trained_side
from artifact.safetensors_file import read_header, read_safetensors, require_finite, write_safetensors
from families.controls.control import CHANNELS, COLOURS, ControlForm, Controllable, controllable
from families.family import ModelFamily

FOLDER_WEIGHTS, FOLDER_CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
SHOWN_TYPE = "ControlNetModel"


class NoControlNet(ArtifactError):
    """A file of another kind, such as a LoRA."""


def write_controlnet(
    controlnet: Any, path: Path, description: ArtifactDescription, precision: str, *, architecture: str
) -> None:
    """Write the single file, whole or not at all. `precision`: fp16, bf16 or fp32.

    Raises ArtifactError when a value is not finite, as it is or in that precision.
    """
    tensors = _tensors(controlnet, precision, path)
    names = single_file_names(controlnet, tensors)
    header = {
        **own_header(description),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/controlnet",
        "modelspec.title": f"ControlNet ({description.config.get('control', 'files')}) for {description.base_model}",
        "modelspec.resolution": "{0}x{0}".format(trained_side(description.config)),
    }
    write_safetensors({names[name]: tensor for name, tensor in tensors.items()}, path, header)


def write_controlnet_folder(controlnet: Any, folder: Path, precision: str) -> None:
    """Write what `ControlNetModel.from_pretrained(folder)` reads, for a ControlNet of that class.

    Raises ArtifactError as `write_controlnet`.
    """
    tensors = _tensors(controlnet, precision, folder / FOLDER_WEIGHTS)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": SHOWN_TYPE, **{key: value for key, value in controlnet.config.items() if key[0] != "_"}}
    (folder / FOLDER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_safetensors(tensors, folder / FOLDER_WEIGHTS, {"format": "pt"})


def controlnet_description(path: Path) -> ArtifactDescription | None:
    """The metadata of a ControlNet trained here; None for other files. Raises ArtifactError for a file that is not a
    ControlNet."""
    return None if path.is_dir() else from_header(read_header(path))[0]


def controlnet_form(path: Path, maker: Controllable, shown: str | None = None) -> ControlForm:
    """The form of a file's ControlNet, from its first layer and its metadata, if it has any. Raises ArtifactError for
    blocks that the base model lacks, for a ControlNet without image input, and as `load_controlnet`."""
    shown = shown or path.name
    if not maker.steered_blocks:
        return ControlForm()
    tensors = read_safetensors(_weights(path, shown), shown).tensors
    description = controlnet_description(path)
    blocks = [] if description is None else description.config.get("controlnet_blocks", [])
    if blocks != [] and not _are_blocks(blocks, maker.steered_blocks):
        raise ArtifactError(
            f"{shown}: this ControlNet is for blocks that the base model does not have; use the base model that it was "
            "trained for"
        )
    if not blocks and count_projections(tensors) == maker.steered_blocks:
        blocks = list(range(maker.steered_blocks))
    bottleneck = bottleneck_of(tensors)
    channels = channels_of(tensors, bottleneck)
    if bottleneck == "simple" and channels != CHANNELS["faces"]:
        raise ArtifactError(
            f"{shown}: this ControlNet expects face embeddings with {channels} values (the original uses ArcFace, with "
            f"512), but SFace, which is used here, has {CHANNELS['faces']}; use one that was trained with this "
            "program, or one with an image input"
        )
    known = channels in CHANNELS.values() and (bottleneck == "simple" or channels != CHANNELS["faces"])
    return ControlForm(channels if known else COLOURS, tuple(blocks), bottleneck)


def _are_blocks(blocks: Any, count: int) -> bool:
    """Whether these are valid block numbers below `count`: the header is untrusted."""
    numbers = isinstance(blocks, list) and all(type(block) is int and 0 <= block < count for block in blocks)
    return bool(numbers and blocks == sorted(set(blocks)))


def read_controlnet(path: Path, family: ModelFamily, shown: str | None = None) -> Any:
    """The ControlNet of a file or of diffusers' folder, in the base's precision on its device.

    `shown`: what errors call it. Raises ArtifactError as `load_controlnet`.
    """
    maker = _maker(family, shown or path.name)
    form = controlnet_form(path, maker, shown)
    with torch.random.fork_rng(devices=[]):
        controlnet = maker.new_controlnet(form)
    try:
        load_controlnet(path, controlnet, family, shown)
    except NoControlNet as error:
        raise ArtifactError(f"{error}; set LoRAs and embeddings in weights (lora)") from error
    # diffusers' own method warns about layers that stay in fp32
    nn.Module.to(controlnet, next(family.denoiser.parameters()).dtype)
    return controlnet.requires_grad_(False).eval()


def load_controlnet(path: Path, controlnet: Any, family: ModelFamily, shown: str | None = None) -> None:
    """Load a file or a folder of diffusers into `controlnet`, a new ControlNet for this base model, in its precision.

    Files of any tool, with diffusers' names or the original ones, are supported. The tensors are checked against the
    base model; the file cannot define the architecture. Raises ArtifactError for another base model's ControlNet, for
    files that are not ControlNets, and for values that are not finite.
    """
    shown = shown or path.name
    found = read_safetensors(_weights(path, shown), shown).tensors
    wanted = controlnet.state_dict()
    tensors = _renamed(found, other_names(controlnet, wanted))
    _require_fitting(tensors, wanted, shown, family.name)
    for name, tensor in tensors.items():
        if wanted[name].is_floating_point():  # the others are counters of batches
            require_finite(f"{shown}: {name}", tensor)
    controlnet.load_state_dict(tensors)


def _weights(path: Path, shown: str) -> Path:
    """The file, or the weights file in a folder."""
    file = path / FOLDER_WEIGHTS if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise ArtifactError(
            f"{shown}: the folder does not contain {FOLDER_WEIGHTS}; give a ControlNet's folder in diffusers' format, "
            "or its file"
        )
    return file


def _maker(family: ModelFamily, shown: str) -> Controllable:
    maker = controllable(family)
    if maker is None:
        raise ArtifactError(f"{shown}: ControlNets are not supported for base models of the family {family.name}")
    return maker


def _tensors(controlnet: Any, precision: str, path: Path) -> dict[str, Tensor]:
    kept = dict(controlnet.named_buffers())  # statistics of norms, some of which underflow in fp16
    tensors = {
        name: each.detach().to("cpu", each.dtype if name in kept else PRECISIONS[precision])
        for name, each in controlnet.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path.name}: {name} contains values that are not finite; nothing was written")
    return tensors


def _renamed(found: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The file's tensors under diffusers' names. Tensors with unknown names keep them."""
    own = {theirs: ours for ours, theirs in names.items()}
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
    return {own.get(name, name): tensor for name, tensor in bare.items()}


def _require_fitting(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], shown: str, family: str) -> None:
    missing, strange = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    other = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    if not (missing or strange or other):
        return
    if not any(mark in name for name in tensors for mark in MARKS):
        raise NoControlNet(f"{shown}: the file is not a ControlNet")
    reasons = (
        (missing, "lacks {count} tensors, such as {name}"),
        (strange, "has {count} unknown tensors, such as {name}"),
        (other, "has {count} tensors of a different shape, such as {name}"),
    )
    said = next(text.format(count=len(names), name=names[0][:100]) for names, text in reasons if names)
    raise ArtifactError(
        f"{shown}: the ControlNet is not for this base model ({family}): it {said}. Use the base model that it was "
        "trained for"
    )

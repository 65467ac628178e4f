"""Writes LoRA files by the rules of other trainers: adapted layers, names, dtypes, and header.

The rules were read in the trainers' sources:
kohya sd-scripts (networks/lora.py, lora_sd3.py, library/sai_model_spec.py): all Linear and 1 × 1 convolutions inside of
    Transformer2DModel, with conv_dim all layers of ResnetBlock2D, Downsample2D and Upsample2D; in CLIP all of
    CLIPAttention and CLIPMLP. SD1.5 in diffusers' block names, SDXL in Stability's, SD3's MMDiT in Stability's with
    queries, keys and values as one layer. `--save_precision` casts every tensor, including alpha.
ai-toolkit (toolkit/lora_special.py, network_mixins.py): the same layers and names, in fp16 including alpha; an
    embedding that was trained with the LoRA is in the file as `clip_l` and `clip_g`.
OneTrainer (LoRAModule.py, DtypeModelSaverMixin.py): all Linear layers and convolutions that its layer filter selects,
    with diffusers' paths for every family (`lora_transformer` for SD3), alpha in the output's type.
SimpleTuner and diffusers' scripts: peft's state dict, written by the pipeline's `save_lora_weights` with
    `lora_adapter_metadata`; no alphas. Here diffusers itself writes these files.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from artifact.names.components import components
from families.family import ModelFamily
from tests.artifact.other_tools import original_unet_names
from tests.families.loading.single_files import SD3_NAMES, SD3_QUERIES

RANK, ALPHA = 4, 2.0
TEXT_CLASSES, TRANSFORMER, CONVOLUTIONAL = (
    ("CLIPAttention", "CLIPMLP"), ("Transformer2DModel",), ("ResnetBlock2D", "Downsample2D", "Upsample2D"),
)  # fmt: skip


@dataclass
class ForeignFile:
    """The tensors of a file, and the weight changes that they represent, by component and path."""

    header: dict[str, str]
    dtype: torch.dtype
    tensors: dict[str, Tensor] = field(default_factory=dict)
    changes: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def add(self, name: str, out: int, inputs: list[int], *places: tuple[str, str]) -> None:
        """Add a random LoRA with kohya's keys. With several places, the rows of `up` are divided in their order."""
        generator = torch.Generator().manual_seed(len(self.tensors))
        down = (0.3 * torch.randn(RANK, *inputs, generator=generator)).to(self.dtype)
        up = (0.3 * torch.randn(out, RANK, *(1 for _ in inputs[1:]), generator=generator)).to(self.dtype)
        alpha = torch.tensor(ALPHA).to(self.dtype)
        self.tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
        change = float(alpha) / RANK * up.float().flatten(1) @ down.float().flatten(1)
        for place, part in zip(places, change.chunk(len(places)), strict=True):
            self.changes[place] = part.reshape(-1, *inputs)

    def write(self, path: Path) -> Path:
        save_file(self.tensors, path, self.header)
        return path


def kohya(family: ModelFamily) -> ForeignFile:
    """Return a file of sd-scripts with text encoders, and for UNets with conv_dim."""
    file = ForeignFile(_kohya_header(family), torch.float16)
    _add_text_encoders(file, family)
    if family.name == "sd3":
        _add_joint_blocks(file, family)
    else:
        _add_unet(file, family)
    return file


def ai_toolkit(family: ModelFamily) -> ForeignFile:
    """Return a file of ai-toolkit without convolutions, with an embedding of one token."""
    header = {
        "format": "pt", "name": "my_lora", "version": "1.0",
        "ss_base_model_version": "sdxl_1.0" if family.name == "sdxl" else "sd_1.5",
        "software": json.dumps({"name": "ai-toolkit", "url": "https://github.com/ostris/ai-toolkit"}),
        "training_info": json.dumps({"step": 10, "epoch": 1}), "sshs_model_hash": "ab", "sshs_legacy_hash": "cd",
    }  # fmt: skip
    file = ForeignFile(header, torch.float16)
    _add_text_encoders(file, family)
    _add_unet(file, family, convolutions=False)
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in family.text_encoders]
    keys = ("emb_params",) if len(widths) == 1 else ("clip_l", "clip_g")
    file.tensors |= {key: torch.randn(1, width).half() for key, width in zip(keys, widths, strict=True)}
    return file


def onetrainer(family: ModelFamily) -> ForeignFile:
    """Return a file of OneTrainer with all Linear layers and convolutions of all models ("full"), in bf16."""
    header = {
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": f"{family.architecture}/lora",
        "modelspec.implementation": "https://github.com/Nerogar/OneTrainer", "modelspec.title": "",
        "modelspec.hash_sha256": "0x00", "ot_branch": "master", "ot_revision": "0000000", "ot_config": "{}",
    }  # fmt: skip
    if family.name == "sdxl":
        header["ss_base_model_version"] = "sdxl_"
    file = ForeignFile(header, torch.bfloat16)
    for component, module in components(family).items():
        number = component.removeprefix("text_encoder").removeprefix("_") or "1"
        te = "lora_te" if len(family.text_encoders) == 1 else f"lora_te{number}"
        prefix = te if component != "denoiser" else "lora_transformer" if family.name == "sd3" else "lora_unet"
        for path, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                full = path if component == "denoiser" else _in_text_model(path)
                file.add(f"{prefix}_{full}".replace(".", "_"), *_sizes(layer), (component, path))
    return file


def diffusers_script(family: ModelFamily, folder: Path) -> Path:
    """Add peft adapters with their own alpha to the base, and let its pipeline save them. Returns the file's path."""
    pipeline = family.pipeline()
    adapted: dict[str, Any] = {}
    torch.manual_seed(0)
    encoders = [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None) is not None]
    denoiser = "transformer" if family.name == "sd3" else "unet"
    for name in (denoiser, *encoders):
        module = getattr(pipeline, name)
        targets = ["q_proj", "v_proj"] if name in encoders else ["to_q", "to_k", "to_v", "to_out.0"]
        module.add_adapter(LoraConfig(r=RANK, lora_alpha=3 * RANK, target_modules=targets, init_lora_weights=False))
        adapted[name] = module
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(module) for name, module in adapted.items()}
    pipeline.save_lora_weights(folder, **layers, **_collate_lora_metadata(adapted))
    return folder / "pytorch_lora_weights.safetensors"


TOOLS: Mapping[str, Callable[[ModelFamily], ForeignFile]] = {
    "kohya": kohya,
    "ai-toolkit": ai_toolkit,
    "OneTrainer": onetrainer,
}


def apply(changes: Mapping[tuple[str, str], Tensor], family: ModelFamily) -> None:
    """Apply the changes to the base's own weights: the expected result of every tool."""
    modules = components(family)
    for (component, path), change in changes.items():
        layer: Any = modules[component].get_submodule(path)
        layer.weight.data += change.reshape(layer.weight.shape)


def _add_unet(file: ForeignFile, family: ModelFamily, *, convolutions: bool = True) -> None:
    named = dict(_inside(family.denoiser, TRANSFORMER, (1,)))
    if convolutions:
        named |= dict(_inside(family.denoiser, CONVOLUTIONAL, (1, 3)))
    original = {path: name for name, path in original_unet_names(family.denoiser.config)}
    for path, layer in named.items():
        name = original[path] if family.name == "sdxl" else path
        file.add(f"lora_unet_{name.replace('.', '_')}", *_sizes(layer), ("denoiser", path))


def _add_text_encoders(file: ForeignFile, family: ModelFamily) -> None:
    for number, (component, encoder) in enumerate(list(components(family).items())[1:], start=1):
        prefix = "lora_te" if len(family.text_encoders) == 1 else f"lora_te{number}"
        for path, layer in _inside(encoder, TEXT_CLASSES, (1,)):
            file.add(f"{prefix}_{_in_text_model(path).replace('.', '_')}", *_sizes(layer), (component, path))


def _add_joint_blocks(file: ForeignFile, family: ModelFamily) -> None:
    """Add attention and feed-forward of every block, with the names of the single file."""
    names = {path: name for path, name in SD3_NAMES if name.startswith(("x_block", "context_block"))}
    for number, block in enumerate(family.denoiser.transformer_blocks):
        modules, prefix = dict(block.named_modules()), f"lora_unet_joint_blocks_{number}_"
        for path, name in names.items():
            if isinstance(layer := modules.get(path), nn.Linear):
                key, place = prefix + name.replace(".", "_"), ("denoiser", f"transformer_blocks.{number}.{path}")
                file.add(key, *_sizes(layer), place)
                if path == "norm1_context.linear" and len(layer.weight) == 2 * layer.weight.shape[1]:
                    file.changes[place] = torch.cat(file.changes[place].chunk(2)[::-1])  # as in single files
        for path, (name, parts) in SD3_QUERIES.items():
            if path in modules:
                stem = path.split(".")[0]
                places = [("denoiser", f"transformer_blocks.{number}.{stem}.{part}") for part in parts]
                out, inputs = _sizes(modules[path])
                file.add(prefix + name.replace(".", "_"), 3 * out, inputs, *places)


def _inside(root: nn.Module, classes: tuple[str, ...], kernels: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    for path, module in root.named_modules():
        if type(module).__name__ in classes:
            for child, layer in module.named_modules():
                wanted = isinstance(layer, nn.Conv2d) and layer.kernel_size[0] in kernels
                if wanted or isinstance(layer, nn.Linear):
                    yield f"{path}.{child}", layer


def _sizes(layer: Any) -> tuple[int, list[int]]:
    out, *inputs = layer.weight.shape
    return out, inputs


def _in_text_model(path: str) -> str:
    """Return the path in CLIP of the transformers version that these tools pin, in which everything but a projection
    had the prefix."""
    return path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"


def _kohya_header(family: ModelFamily) -> dict[str, str]:
    return {
        "ss_network_module": "networks.lora_sd3" if family.name == "sd3" else "networks.lora",
        "ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA), "ss_v2": "False", "ss_output_name": "my_lora",
        "ss_base_model_version": family.base_model_version, "ss_tag_frequency": "{}", "ss_seed": "42",
        "ss_mixed_precision": "fp16", "sshs_model_hash": "ab" * 32, "sshs_legacy_hash": "cdcdcdcd",
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": f"{family.architecture}/lora",
        "modelspec.implementation": "diffusers", "modelspec.title": "my_lora", "modelspec.resolution": "512x512",
        "modelspec.date": "2025-01-01T00:00:00", "modelspec.encoder_layer": "1",
    }  # fmt: skip

"""Reduces the size of a whole model: only its weights, in one precision. Needs neither the base model nor torch's
modules."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from artifact.artifact import PRECISIONS
from artifact.conversion.files import require_free
from artifact.errors import ArtifactError
from artifact.safetensors_file import in_precision, write_safetensors

WEIGHTS, DESCRIPTIONS = ".safetensors", (".json", ".txt", ".md", ".model", ".jinja")
MODEL_INDEX = "model_index.json"
STATE = ("model_ema.", "optimizer", "lr_schedulers.", "callbacks.", "loops.")
"""Prefixes of the names under which training tools store averages and optimizer state in a single file."""
LAYERS_OF_LORAS = ("lora_down", "lora_up", ".lora_A.", ".lora_B.", "hada_w", "lokr_w")
"""Parts of the names of tensors in LoRA files."""
VARIANTS = (".fp16", ".bf16", ".non_ema")
"""Variants of a component's weights, in addition to the file without a variant."""
MB = 10**6


@dataclass(frozen=True)
class Pruned:
    """Bytes of weights before and after, and what was left out: files, or beginnings of names."""

    before: int
    after: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.before / MB:.1f} MB of weights are now {self.after / MB:.1f} MB"]
        return "\n".join([*lines, *(f"left out: {name}" for name in self.left_out)])


def prune(source: Path, target: Path, precision: str = "fp16") -> Pruned:
    """Write `source`, a folder in diffusers' layout or a .safetensors file, with all floats in `precision` (fp16, bf16
    or fp32) and without averages, optimizer state, pickles and further variants of the weights.

    Raises ArtifactError, and writes nothing, where it is neither, or a value would not be finite.
    """
    require_free(target)
    dtype = PRECISIONS[precision]
    if source.is_dir():
        return _folder(source, target, dtype)
    if not source.exists():
        raise ArtifactError(f"{source} does not exist")
    if source.suffix != WEIGHTS or not source.is_file():
        raise ArtifactError(
            f"{source} is neither a folder in diffusers' layout nor a .safetensors file. A .ckpt can run code when it "
            "is opened: convert one that you trust with diffusers' from_single_file and save_pretrained"
        )
    left_out = _file(source, target, dtype)
    return Pruned(source.stat().st_size, target.stat().st_size, left_out)


def _folder(source: Path, target: Path, dtype: torch.dtype) -> Pruned:
    if not (source / MODEL_INDEX).is_file():
        raise ArtifactError(
            f"{source} does not contain {MODEL_INDEX}: give a folder in diffusers' layout, such as model/ of a run"
        )
    unfinished = target.with_name(target.name + ".unfinished")
    left_out: list[str] = []
    try:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name, copy = path.relative_to(source), unfinished / path.relative_to(source)
            if path.suffix == WEIGHTS and path.parent != source and not _is_variant(path):
                left_out += [f"{name}: {each}" for each in _file(path, copy, dtype)]
            elif path.suffix in DESCRIPTIONS:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            else:
                left_out.append(str(name))
        if not (before := _weights_in(source)):
            raise ArtifactError(f"{source} has no {WEIGHTS} files")
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Pruned(before, _weights_in(target), tuple(left_out))


def _file(source: Path, target: Path, dtype: torch.dtype) -> tuple[str, ...]:
    """Write one file. Returns the prefixes of the names that were left out."""
    try:
        with safe_open(source, framework="pt") as file:
            header = file.metadata()
            names = [name for name in file.keys() if not name.startswith(STATE)]  # noqa: SIM118 (no mapping)
            left_out = {prefix for prefix in STATE for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            tensors: Mapping[str, Tensor] = {
                name: in_precision(file.get_tensor(name), dtype, f"{source.name}: {name}") for name in names
            }
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{source.name}: not a readable .safetensors file ({error})") from error
    if any(part in name for name in names for part in LAYERS_OF_LORAS):
        raise ArtifactError(f"{source.name} is a LoRA, not a whole model. Reduce it with python -m artifact resize.")
    if not tensors:
        raise ArtifactError(f"{source.name} does not contain the weights of a model")
    write_safetensors(tensors, target, header)
    return tuple(sorted(left_out))


def _is_variant(path: Path) -> bool:
    """Whether the same folder also has these weights without a variant in their name."""
    for variant in VARIANTS:
        if variant in path.name:
            plain = path.name.replace(variant, "")
            return path.with_name(plain).exists() or any(path.parent.glob(plain.replace(WEIGHTS, "-*" + WEIGHTS)))
    return False


def _weights_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob(f"*{WEIGHTS}"))

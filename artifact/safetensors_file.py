"""Reads and writes .safetensors files. Files are untrusted until checked; pickle is never loaded."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from artifact.errors import ArtifactError

MAX_TENSORS = 20_000
"""SDXL has some 1,100 layers that a LoRA can change; LoKr has the most tensors per layer, six."""
MAX_HEADER_BYTES = 32 * 1024**2
"""Tens of thousands of names and a thousand tokens take a third of that. The library's own limit is 100 MB, which is
slow."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class HeaderAndTensors(NamedTuple):
    """The strings of the file's header, and its tensors by key."""

    header: Mapping[str, str]
    tensors: Mapping[str, Tensor]


def read_safetensors(path: Path, shown: str | None = None) -> HeaderAndTensors:
    """Read a file. `shown`: its name in messages. Raises ArtifactError when it is invalid, or has more tensors than any
    LoRA."""
    shown = shown or path.name
    try:
        _check_header(path, shown)
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise ArtifactError(f"{shown}: {len(names):,} tensors; a LoRA has at most {MAX_TENSORS:,}")
            return HeaderAndTensors(file.metadata() or {}, {name: file.get_tensor(name) for name in names})
    except ArtifactError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{shown}: not a readable .safetensors file ({error})") from error


def read_header(path: Path) -> Mapping[str, str]:
    """Return the strings of the file's header, without its tensors. Raises ArtifactError when it is not a safetensors
    file."""
    try:
        _check_header(path, path.name)
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except ArtifactError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path.name}: not a readable .safetensors file ({error})") from error


def _check_header(path: Path, shown: str) -> None:
    """Check the length of the header before the file is read: it is stored in the first eight bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length <= path.stat().st_size:  # safetensors reports any other length
        raise ArtifactError(
            f"{shown}: the header has {length:,} bytes; that of a LoRA has at most {MAX_HEADER_BYTES:,}"
        )


def require_finite(key: str, tensor: Tensor) -> None:
    """Raises ArtifactError when a tensor is not of floats, or contains NaN or infinities."""
    if tensor.dtype not in FLOATS:
        raise ArtifactError(f"{key} has the type {tensor.dtype}, which is not supported in a LoRA")
    finite = math.isfinite(tensor) if tensor.numel() == 1 else not (tensor - tensor).any()
    if not finite:  # NaN - NaN and inf - inf are not 0; takes half as long as torch.isfinite
        raise ArtifactError(f"{key} contains values that are not finite")


def in_precision(tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
    """Return a tensor of floats in `dtype`, others as they are. Raises ArtifactError when that would overflow."""
    if dtype is None or tensor.dtype not in FLOATS:
        return tensor
    rounded = tensor.to(dtype)
    if not torch.isfinite(rounded.float()).all():
        raise ArtifactError(f"{name} would not be finite in {dtype}; nothing was written")
    return rounded


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None = None) -> None:
    """Write the file atomically, with the permissions of the umask.

    `save_file` creates files of mode 0600, which another user's ComfyUI could not read. An unfinished file, as on a
    full disk, is removed. Raises OSError, or safetensors' SafetensorError, when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, header and dict(header))
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

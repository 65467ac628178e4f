"""Stores a tree of numbers, strings and tensors as safetensors and JSON. Reading it cannot execute code."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS, VALUES = "state.safetensors", "state.json"
REFERENCE = "tensor"
"""A tensor is stored in the JSON as {"tensor": its name in the safetensors file}."""


def write_state(folder: Path, tree: Mapping[str, Any]) -> None:
    """Write both files and flush them to disk.

    `tree`: dicts with string keys, lists and tuples of tensors, numbers, strings and None.
    """
    values, tensors = split_tensors(tree)
    save_file({name: _on_cpu(tensor) for name, tensor in tensors.items()}, folder / TENSORS)
    with (folder / VALUES).open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
    for name in (TENSORS, VALUES):
        with (folder / name).open("rb") as written:
            os.fsync(written.fileno())


def size_of(tree: Any) -> int:
    """Bytes of all tensors in a tree."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, Mapping):
        return sum(map(size_of, tree.values()))
    return sum(map(size_of, tree)) if isinstance(tree, list | tuple) else 0


def read_state(folder: Path) -> dict[str, Any]:
    """Read the tree with its tensors on the CPU. Tuples are returned as lists.

    Raises OSError, ValueError or SafetensorError when a file is missing or incomplete.
    """
    tensors = load_file(folder / TENSORS)
    tree: dict[str, Any] = join_tensors(json.loads((folder / VALUES).read_text(encoding="utf-8")), tensors)
    return tree


def split_tensors(tree: Any, reference: str = REFERENCE) -> tuple[Any, dict[str, Tensor]]:
    """Return the tree with {reference: path} in place of its tensors, and these by their paths. Tuples become lists."""
    tensors: dict[str, Tensor] = {}

    def split(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node.detach()
            return {reference: path}
        if isinstance(node, Mapping):
            wrong = [key for key in node if not isinstance(key, str)]
            if wrong:
                raise TypeError(f"{path}: JSON has text keys only, not {wrong[0]!r}")
            return {key: split(value, f"{path}/{key}".lstrip("/")) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [split(value, f"{path}/{index}".lstrip("/")) for index, value in enumerate(node)]
        return node

    return split(tree, ""), tensors


def join_tensors(node: Any, tensors: Mapping[str, Tensor], reference: str = REFERENCE) -> Any:
    """Undo `split_tensors`. Raises KeyError for a tensor that is not there."""
    if isinstance(node, dict):
        if set(node) == {reference}:
            return tensors[node[reference]]
        return {key: join_tensors(value, tensors, reference) for key, value in node.items()}
    return [join_tensors(value, tensors, reference) for value in node] if isinstance(node, list) else node


def _on_cpu(tensor: Tensor) -> Tensor:
    """A contiguous copy."""
    return torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format).copy_(tensor)

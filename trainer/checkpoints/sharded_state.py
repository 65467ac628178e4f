"""The state of sharded weights, written and read by all processes together: torch's distributed checkpoint, as
safetensors, whose reading cannot execute code.

Tensors with the shape of a process's rows (weights, moments, averages) are written as rows of one tensor. Other
tensors, such as step counters, are stored for each process, under a name with its rank.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from trainer.checkpoints.state_file import join_tensors, split_tensors
from trainer.distributed.shards import as_sharded

IN_SHARDS = "shard"
"""A tensor is {"shard": its path} in the outline of a state."""


def outline(state: Any) -> Any:
    """Return a state without its tensors, for JSON."""
    return split_tensors(state, IN_SHARDS)[0]


def write_shards(folder: Path, state: Any, shards: Sequence[nn.Parameter], rank: int) -> None:
    """Write the tensors of a state. All ranks call this together, on a disk that they share.

    `state`: a tree whose paths have the index of a parameter, as those of torch's optimizers. `shards`: the parameters.
    """
    tensors = split_tensors(state, IN_SHARDS)[1]
    named = {}
    for path, tensor in tensors.items():
        shard = shards[_index(path)]
        whole = tensor.shape == shard.shape
        # A copy: bitsandbytes shares one table of 8-bit values between all weights, which safetensors refuses.
        named[path if whole else _own(path, rank)] = as_sharded(tensor, shard) if whole else tensor.clone()
    save(named, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_shards(folder: Path, outlined: Any, shards: Sequence[nn.Parameter], rank: int) -> Any:
    """Return the state of this process, with its tensors. All ranks call this together.

    Raises OSError, KeyError, ValueError, or CheckpointException, where files are missing or damaged.
    """
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    wanted: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for path in _paths(outlined):
        shard = shards[_index(path)]
        if path in known:
            wanted[path] = _buffer(known[path], shard)
        elif shard.numel() > 0:
            wanted[_own(path, rank)] = _buffer(known[_own(path, rank)])
        else:  # never updated on this process
            rows[path] = torch.empty(0)
    load(dict(wanted), storage_reader=reader)
    for name, tensor in wanted.items():
        rows[name.removesuffix(_own("", rank))] = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return join_tensors(outlined, rows, IN_SHARDS)


def _buffer(of_file: Any, shard: nn.Parameter | None = None) -> Tensor:
    """An empty tensor with the shape and dtype of the stored one."""
    dtype = of_file.properties.dtype
    if shard is None:
        return torch.empty(of_file.size, dtype=dtype)
    return as_sharded(torch.empty(shard.shape, dtype=dtype), shard)


def _paths(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        if set(node) == {IN_SHARDS}:
            return [node[IN_SHARDS]]
        return [path for value in node.values() for path in _paths(value)]
    return [path for value in node for path in _paths(value)] if isinstance(node, list) else []


def _index(path: str) -> int:
    """The index of the parameter, which is the last number of the path."""
    return int([word for word in path.split("/") if word.isdecimal()][-1])


def _own(path: str, rank: int) -> str:
    return f"{path}@{rank}"

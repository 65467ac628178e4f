"""Counts memory and operations of a training step without its tensors: only shapes and dtypes are computed, not
values."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import inject_adapter_in_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from families.precision.stored_blocks import AS_LOADED, Storage, store_blocks
from families.precision.stored_linear import StoredLinear
from trainer.adapters.base_precision import compute_in_base_precision
from trainer.adapters.kind import ADAPTER
from trainer.adapters.kinds import KINDS, MODULES
from trainer.execution.operations import OperationCount

Pass = Callable[[nn.Module], Tensor]
"""Runs a denoiser forward, and returns its prediction."""


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensor storages that are alive: those passed to `watch`, and those that operations
    return, except those passed to `ignore`. `live`: the current sum. `peak`: its maximum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def watch(self, tensor: Tensor) -> None:
        """Count the tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key)

    def ignore(self, tensor: Tensor) -> None:
        """Do not count the tensor's storage, nor views of it."""
        self._sizes[tensor.untyped_storage()._cdata] = 0

    def _freed(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return result


@dataclass(frozen=True)
class StepCost:
    """Bytes of a training step on the device. `weights`: of the denoiser. `trained`: of the adapter, its gradients and
    the two moments of AdamW. `peak`: the maximum, including weights, adapter and optimizer. `operations`: of a forward
    and a backward pass, as counted by `OperationCount`, including recomputation."""

    weights: int
    trained: int
    peak: int
    operations: int


@dataclass(frozen=True)
class EmptyAdapter:
    """An adapter that only has shapes: `kind` a name in KINDS, `paths` of the denoiser's layers."""

    kind: str
    rank: int
    alpha: float
    paths: Sequence[str]


def weights_on_device(denoiser: Any, storage: Storage) -> int:
    """Bytes of a denoiser's weights in this storage, computed without a pass. `denoiser`: as for `step_cost`."""
    empty = _empty_copy(denoiser)
    if not storage.is_plain:
        store_blocks(empty, Storage(storage.precision), torch.device("meta"))
    elsewhere = _stored(empty) if storage.offloaded else set()
    return sum(parameter.nbytes for parameter in empty.parameters() if parameter not in elsewhere)


def step_cost(
    denoiser: Any, adapter: EmptyAdapter, run: Pass, *, checkpointing: bool, storage: Storage = AS_LOADED
) -> StepCost:
    """Count a forward and a backward pass of `run` with a copy of `denoiser` that has no values.

    `denoiser`: diffusers' model without adapters, its weights anywhere, the meta device included. `checkpointing`: with
    gradient checkpointing. `storage`: of the copy's weights; of offloaded weights, only the largest is on the device at
    a time.
    """
    empty = _empty_copy(denoiser)
    if not storage.is_plain:
        store_blocks(empty, Storage(storage.precision), torch.device("meta"))
    empty = _with_adapter(empty, adapter)
    if checkpointing:
        empty.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fill(empty)
        memory, counter = PeakMemory(), OperationCount()
        elsewhere = _stored(empty) if storage.offloaded else set()
        parameters = [parameter for parameter in empty.parameters() if parameter not in elsewhere]
        for parameter in elsewhere:
            memory.ignore(parameter)
        for parameter in parameters:
            memory.watch(parameter)
        with counter, memory:
            run(empty).float().pow(2).mean().backward()
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    moments = 2 * trained
    return StepCost(
        weights=sum(parameter.nbytes for parameter in parameters if not parameter.requires_grad),
        trained=2 * trained + moments,
        peak=memory.peak + moments + max((parameter.nbytes for parameter in elsewhere), default=0),
        operations=counter.total,
    )


def _empty_copy(denoiser: Any) -> Any:
    """The same model on the meta device, in the same dtypes, frozen, in training mode; weights in the format in which
    they were loaded."""
    with init_empty_weights():
        empty = type(denoiser).from_config(denoiser.config)
    dtypes = {name: parameter.dtype for name, parameter in denoiser.named_parameters()}
    for name, parameter in empty.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, denoiser.dtype))
    return empty.train().requires_grad_(False)


def _stored(empty: nn.Module) -> set[nn.Parameter]:
    """The tensors of layers that are stored in another format."""
    return {each for module in empty.modules() if isinstance(module, StoredLinear) for each in module.stored}


def _with_adapter(empty: Any, adapter: EmptyAdapter) -> Any:
    kind = KINDS[adapter.kind]
    config = kind.config(adapter.rank, adapter.alpha, adapter.paths)
    inject_adapter_in_model(config, empty, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    for parameter in empty.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if kind.in_base_precision:
        for module in empty.modules():
            if isinstance(module, MODULES):
                compute_in_base_precision(module, ADAPTER)
    return empty


def _fill(empty: nn.Module) -> None:
    """Replace the model's tensors on the meta device by tensors of the current mode."""
    for module in empty.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                value = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)

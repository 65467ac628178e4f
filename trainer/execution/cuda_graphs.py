"""Records passes of the denoiser and the text encoders as CUDA graphs.

A step of SDXL launches 19,000 kernels, which takes the CPU longer than the GPU needs to run them. A recorded graph is
launched as a whole. Passes without gradients (samples, validation, the base as a teacher) are not recorded.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from settings.sections.speed import SpeedSection
from trainer.data.batches import LatentBatch
from trainer.execution.accumulation import AroundGradientSource, Backward, GradientSource
from trainer.trainables.trainable import Trainable

PASSES_BEFORE = 2
"""Eager passes of each kind before recording. Recording does not pay for inputs that occur only once or twice."""

Recorder = Callable[[nn.Module, tuple[Tensor, ...], Any], Callable[..., Any]]
"""Takes a module, sample tensors and a memory pool. Returns a function that replays the recorded pass."""


def cuda_graphs(module: nn.Module, tensors: tuple[Tensor, ...], pool: Any) -> Callable[..., Any]:
    """Record with torch's `make_graphed_callables` in the current autocast precision.

    Raises RuntimeError when the pass cannot be recorded.
    """
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # the recorder's stream is not used later
    with torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    ):
        recorded: Callable[..., Any] = torch.cuda.make_graphed_callables(
            module, tensors, allow_unused_input=True, pool=pool
        )
        return recorded


def records(speed: SpeedSection, device: torch.device, trains_base: bool, passes_differ: bool) -> bool:
    """Whether this run may record passes. It may not when repeated passes differ, or when the base itself is
    trained."""
    return (
        speed.cuda_graphs == "auto"
        and device.type == "cuda"
        and not trains_base
        and speed.gradient_checkpointing != "always"
        and not passes_differ
        and not speed.shard_base  # its blocks are gathered between kernels
    )


class RecordedPasses:
    """Records the passes of `model` with gradients, one graph for each kind of input, inside `in_use`."""

    def __init__(
        self,
        model: nn.Module,
        may: Callable[[], bool] = lambda: True,
        record: Recorder = cuda_graphs,
        new_pool: Callable[[], Any] = torch.cuda.graph_pool_handle,
    ) -> None:
        """`may`: called in every pass; if False, the pass is run eagerly. `new_pool`: returns a memory pool for
        recording."""
        self._model, self._may, self._record, self._new_pool = model, may, record, new_pool
        self._seen: Counter[object] = Counter()
        self._recorded: dict[object, Callable[..., Any]] = {}
        self._pools: dict[int, Any] = {}
        self._pending = 0
        self.problem: str | None = None
        """The reason why recording stopped; None while it works."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Replay recorded passes of the model inside this context."""
        self._model.forward = self._forward
        try:
            yield
        finally:
            del self._model.forward  # restores the method of the class

    def after_backward(self) -> None:
        """Reset the count of passes that wait for their backward pass."""
        self._pending = 0

    def forget(self) -> None:
        """Free the memory and all recordings."""
        self._recorded.clear()
        self._pools.clear()
        self._seen.clear()
        self._pending = 0

    def _forward(self, *arguments: Any, **options: Any) -> Any:
        run = type(self._model).forward
        if not torch.is_grad_enabled() or self.problem is not None or not self._may():
            return run(self._model, *arguments, **options)
        leaves, structure = tree_flatten((arguments, options))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        kind = (self._pending, *_kind(leaves, structure))
        self._pending += 1
        self._seen[kind] += 1
        if self._seen[kind] <= PASSES_BEFORE:
            return run(self._model, *arguments, **options)
        if kind not in self._recorded and not self._add(kind, _Pass(self._model, leaves, structure), tensors):
            return run(self._model, *arguments, **options)
        return self._recorded[kind](*tensors)

    def _add(self, kind: tuple[Any, ...], module: "_Pass", tensors: Sequence[Tensor]) -> bool:
        """Record a pass. Passes whose backward passes are pending together need separate memory pools; others share
        one."""
        waiting = kind[0]
        if waiting not in self._pools:
            self._pools[waiting] = self._new_pool()
        samples = tuple(each.detach().clone().requires_grad_(each.requires_grad) for each in tensors)
        try:
            self._recorded[kind] = self._record(module, samples, self._pools[waiting])
        except RuntimeError as error:  # also torch.OutOfMemoryError
            self.forget()
            self.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return False
        return True


class _Pass(nn.Module):
    """A model as a function of tensors only. All other arguments are fixed."""

    def __init__(self, model: nn.Module, leaves: Sequence[Any], structure: TreeSpec) -> None:
        super().__init__()
        self.model = model
        self._leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self._structure = structure
        self.training = model.training

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the trainable parameters only: the recorder passes all of them to autograd in every pass."""
        return (each for each in self.model.parameters(recurse) if each.requires_grad)

    def forward(self, *tensors: Tensor) -> Any:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        arguments, options = tree_unflatten(leaves, self._structure)
        return type(self.model).forward(self.model, *arguments, **options)


def _kind(leaves: Sequence[Any], structure: TreeSpec) -> tuple[Any, ...]:
    """Return the key of a recording: shapes, dtypes and `requires_grad` of tensors, and all other arguments."""
    of_tensors = [
        (tuple(leaf.shape), leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else leaf for leaf in leaves
    ]
    return repr(structure), *of_tensors


class RecordedSteps(AroundGradientSource):
    """A gradient source whose passes are recorded and replayed."""

    def __init__(
        self, inner: GradientSource, models: Sequence[RecordedPasses], trainables: Sequence[Trainable]
    ) -> None:
        super().__init__(inner)
        self._models, self._trainables = models, trainables

    @property
    def problem(self) -> str | None:
        """The reason why some passes are no longer recorded; None while all are."""
        return next((model.problem for model in self._models if model.problem is not None), None)

    def forget(self) -> None:
        """Free the memory and all recordings."""
        for model in self._models:
            model.forget()

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        def replayed(batch: LatentBatch, share: float) -> dict[str, Tensor]:
            try:
                losses = backward(batch, share)
            except torch.OutOfMemoryError:
                self.forget()
                raise
            for model in self._models:
                model.after_backward()
            if len(batches) * self.parts > 1:
                self._own_gradients()
            return losses

        with ExitStack() as stack:
            for model in self._models:
                stack.enter_context(model.in_use())
            return self._inner.run(batches, replayed)

    def _own_gradients(self) -> None:
        """Copy the gradients that will be added to: the next replay may overwrite the memory of a recorded gradient."""
        for trainable in self._trainables:
            for parameter in trainable.parameters:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()

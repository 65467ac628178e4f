"""Selects the implementation of the denoiser's attention in training passes.

diffusers' own `set_attention_backend` reaches only models whose processors dispatch (Flux and later), not UNets and
SD3, and it changes every model of the process. Therefore the processors are exchanged for the duration of a step.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    JointAttnProcessor2_0,
    XFormersAttnProcessor,
    XFormersJointAttnProcessor,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from settings.record import ConfigError
from settings.sections.speed import AttentionName
from trainer.data.batches import LatentBatch
from trainer.execution.accumulation import AroundGradientSource, Backward, GradientSource

TORCHS_OWN = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
USUAL_HEAD = 64
"""Channels per head in SDXL and SD3, for the check before the base is loaded."""
PLACES, WORDS = 64, 77
"""Lengths in the check: queries for 8×8 latents, keys for a prompt."""


def require_attention(
    name: AttentionName, device: torch.device, dtype: torch.dtype, denoiser: nn.Module | None = None
) -> None:
    """Check by a trial with gradients that the implementation `name` works on `device`. Raises ConfigError if not.

    Without `denoiser` the trial uses heads of the usual size, so nothing has to be loaded.
    """
    if name == "auto":
        return
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise ConfigError(
            f"attention: xformers is not installed; pip install the version of xformers that is made for torch "
            f"{torch.__version__}, or set attention: auto"
        )
    heads = {USUAL_HEAD} if denoiser is None else {layer.inner_dim // layer.heads for layer in _layers(denoiser)}
    for head in sorted(heads):
        if (problem := _trial(name, device, dtype, head)) is not None:
            raise ConfigError(
                f"attention: {name} does not work on {_name(device)} with heads of {head} channels in "
                f"{str(dtype).removeprefix('torch.')} ({problem}). Set attention: auto"
            )


class AttentionSteps(AroundGradientSource):
    """A gradient source that computes the attention of `denoiser` with the implementation `name`."""

    def __init__(self, inner: GradientSource, denoiser: nn.Module, name: AttentionName) -> None:
        super().__init__(inner)
        self._layers = list(_layers(denoiser))
        self._usual = [layer.processor for layer in self._layers]
        self._chosen = [_processor(name, usual) for usual in self._usual]

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        with self._in_use():
            return self._inner.run(batches, backward)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self._exchange(self._chosen)
        try:
            yield
        finally:
            self._exchange(self._usual)

    def _exchange(self, processors: Iterable[Any]) -> None:
        for layer, processor in zip(self._layers, processors, strict=True):
            layer.processor = processor


class OneBackend:
    """Calls one of diffusers' attention processors with a single SDPA backend enabled."""

    def __init__(self, processor: Callable[..., Any], backend: SDPBackend) -> None:
        self._processor, self._backend = processor, backend

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        with sdpa_kernel(self._backend):
            return self._processor(attn, hidden_states, *arguments, **options)


def _layers(denoiser: nn.Module) -> Iterator[Any]:
    """The attention layers. FLUX and later models have other classes than UNets and SD3."""
    return (module for module in denoiser.modules() if isinstance(module, (Attention, AttentionModuleMixin)))


def _processor(name: AttentionName, usual: Any) -> Any:
    if name in TORCHS_OWN:
        return OneBackend(usual, TORCHS_OWN[name])
    by_xformers = {AttnProcessor2_0: XFormersAttnProcessor, JointAttnProcessor2_0: XFormersJointAttnProcessor}
    if type(usual) not in by_xformers:
        raise ConfigError(f"attention: xformers is not supported for {type(usual).__name__}; set attention: auto")
    return by_xformers[type(usual)]()


def _trial(name: AttentionName, device: torch.device, dtype: torch.dtype, head: int) -> str | None:
    """Return the error message when attention or its gradients fail with `name`, None when they work."""
    query, key, value = (
        torch.randn(2, 2, length, head, device=device, dtype=dtype, requires_grad=True)
        for length in (PLACES, WORDS, WORDS)
    )
    with warnings.catch_warnings(record=True) as said:  # warnings contain torch's reasons
        warnings.simplefilter("always")
        try:
            _attend(name, query, key, value).sum().backward()
        except (RuntimeError, NotImplementedError, ImportError, ValueError) as error:
            return " ".join(" ".join([*(str(each.message) for each in said), str(error)]).split())[:600]
    return None


def _attend(name: AttentionName, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention. `query`, `key`, `value` and the result: (B, heads, N, channels)."""
    if name in TORCHS_OWN:
        with sdpa_kernel(TORCHS_OWN[name]):
            return F.scaled_dot_product_attention(query, key, value)
    from xformers.ops import memory_efficient_attention

    attended: Tensor = memory_efficient_attention(*(each.transpose(1, 2).contiguous() for each in (query, key, value)))
    return attended.transpose(1, 2)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"this {device.type}"

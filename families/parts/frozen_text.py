"""Prompt features of language models that never learn: read once, kept on the CPU, the model freed."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from families.features import PromptFeatures

ReadPrompts = Callable[[Sequence[str]], PromptFeatures]


class FrozenText:
    """Features by prompt. The model is loaded only while prompts are read that are not known yet.

    Each prompt is read alone, so that its features do not depend on its neighbours.
    """

    def __init__(
        self, load: Callable[[], ReadPrompts], room: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """`load`: loads the model, and returns what reads one prompt with it. What it returns is dropped afterwards.
        `room`: makes room in memory while prompts are read ahead, such as `aside`.
        """
        self._load, self._room = load, room
        self._kept: dict[str, PromptFeatures] = {}

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Read those that are not kept yet, and free the model."""
        if self._missing(prompts):
            with self._room():
                self._read(prompts)

    def features(self, prompts: Sequence[str], device: torch.device) -> PromptFeatures:
        """One row for each prompt, on `device`. Prompts that `read_ahead` did not get are read beside the denoiser."""
        self._read(prompts)
        return PromptFeatures.joined([self._kept[prompt] for prompt in prompts]).to(device)

    def _missing(self, prompts: Sequence[str]) -> list[str]:
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]

    def _read(self, prompts: Sequence[str]) -> None:
        missing = self._missing(prompts)
        if not missing:
            return
        read = self._load()
        cpu = torch.device("cpu")
        with torch.no_grad():
            self._kept |= {prompt: read([prompt]).to(cpu) for prompt in missing}
        del read
        _free()


def reading_device() -> torch.device:
    """Where text encoders read: this process's GPU, if there is one. A family may not know its own device yet."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def aside(denoiser: nn.Module) -> Iterator[None]:
    """The denoiser on the CPU meanwhile, where it lies on a GPU: a text encoder may be as large as it is."""
    device = next(denoiser.parameters()).device
    if device.type != "cuda":
        yield
        return
    denoiser.to("cpu")
    _free()
    try:
        yield
    finally:
        denoiser.to(device)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

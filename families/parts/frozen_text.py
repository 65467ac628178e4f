"""Prompt features of frozen language models: computed once and cached on the CPU, after which the model is freed."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from families.features import PromptFeatures

ReadPrompts = Callable[[Sequence[str]], PromptFeatures]


class FrozenText:
    """A cache of features by prompt. The model is loaded only to encode prompts that are not cached.

    Each prompt is encoded alone, so that its features do not depend on others in the batch.
    """

    def __init__(
        self, load: Callable[[], ReadPrompts], room: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """`load`: loads the model, and returns a function that encodes a prompt. The function is dropped after use.

        `room`: a context that frees memory while prompts are read ahead, such as `aside`.
        """
        self._load, self._room = load, room
        self._kept: dict[str, PromptFeatures] = {}

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Encode the prompts that are not cached, and free the model."""
        if self._missing(prompts):
            with self._room():
                self._read(prompts)

    def features(self, prompts: Sequence[str], device: torch.device) -> PromptFeatures:
        """Return one row per prompt, on `device`. Prompts that were not read ahead are encoded with the denoiser in
        memory."""
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
    """Return the device for text encoders: this process's GPU, if there is one. The family may not have a device
    yet."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def aside(denoiser: nn.Module) -> Iterator[None]:
    """Move the denoiser from the GPU to the CPU inside this context: a text encoder may be as large."""
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

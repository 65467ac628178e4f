"""Prompt features of frozen language models: computed once and stored; then the model is freed."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from families.features import PromptFeatures
from families.parts.prompt_files import PromptFiles

ReadPrompts = Callable[[Sequence[str]], PromptFeatures]


IN_MEMORY = 256
"""Prompts whose features are kept in memory. FLUX.1's take 4 MB each, FLUX.2 dev's 16 MB."""


class FrozenText:
    """A cache of features by prompt. The model is loaded only to encode prompts that are not cached.

    Each prompt is encoded alone, so that its features do not depend on others in the batch.
    """

    def __init__(
        self,
        load: Callable[[], ReadPrompts],
        free_memory: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`load`: loads the model, and returns a function that encodes a prompt. The function is dropped after use.

        `free_memory`: a context that frees memory while prompts are read ahead, such as `aside`.
        """
        self._load, self._free_memory = load, free_memory
        self._files: PromptFiles | None = None
        self._kept: dict[str, PromptFeatures] = {}
        self._most = IN_MEMORY

    def keep_in(self, folder: Path) -> None:
        """Store all features in this folder from now on, and the last ones in memory. Stored features are not computed
        again."""
        self._files = PromptFiles(folder)

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Encode the prompts that are not cached, and free the model."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self._has(prompt)]
        if not missing:
            return
        if self._files is None:
            self._most = max(self._most, len(self._kept) + len(missing))
        with self._free_memory():
            for _ in self._encoded(missing):
                pass

    def features(self, prompts: Sequence[str], device: torch.device) -> PromptFeatures:
        """Return one row per prompt, on `device`. Prompts that were not read ahead are encoded with the denoiser in
        memory."""
        different = dict.fromkeys(prompts)
        found = {prompt: features for prompt in different if (features := self._find(prompt)) is not None}
        found |= self._encoded([prompt for prompt in different if prompt not in found])
        return PromptFeatures.joined([found[prompt] for prompt in prompts]).to(device)

    def _has(self, prompt: str) -> bool:
        return prompt in self._kept or (self._files is not None and prompt in self._files)

    def _find(self, prompt: str) -> PromptFeatures | None:
        if prompt not in self._kept and self._files is not None and (features := self._files.read(prompt)) is not None:
            self._keep(prompt, features)
        return self._kept.get(prompt)

    @torch.no_grad()
    def _encoded(self, missing: Sequence[str]) -> Iterator[tuple[str, PromptFeatures]]:
        """Yield each prompt with its features, and store them. The model is freed at the end."""
        if not missing:
            return
        read = self._load()
        for prompt in missing:
            features = read([prompt]).to(torch.device("cpu"))
            if self._files is not None:
                self._files.write(prompt, features)
            self._keep(prompt, features)
            yield prompt, features
        del read
        _free()

    def _keep(self, prompt: str, features: PromptFeatures) -> None:
        while len(self._kept) >= self._most:  # the oldest entry
            del self._kept[next(iter(self._kept))]
        self._kept[prompt] = features


def reading_device() -> torch.device:
    """Return the device for text encoders: this process's GPU, if there is one. The family may not have a device
    yet."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def aside(denoiser: nn.Module) -> Iterator[None]:
    """Move the denoiser from the GPU to the CPU inside this context, because a text encoder may be as large."""
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

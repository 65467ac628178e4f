"""Prompt features of language models that never learn: read once, kept on the CPU, the model freed."""

import gc
from collections.abc import Callable, Sequence

import torch

from families.features import PromptFeatures

ReadPrompts = Callable[[Sequence[str]], PromptFeatures]


class FrozenText:
    """Features by prompt. The model is loaded only while prompts are read that are not known yet.

    Each prompt is read alone, so that its features do not depend on its neighbours.
    """

    def __init__(self, load: Callable[[], ReadPrompts]) -> None:
        """`load`: loads the model, and returns what reads one prompt with it. What it returns is dropped afterwards."""
        self._load = load
        self._kept: dict[str, PromptFeatures] = {}

    def read_ahead(self, prompts: Sequence[str]) -> None:
        """Read those that are not kept yet, and free the model."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]
        if not missing:
            return
        read = self._load()
        cpu = torch.device("cpu")
        with torch.no_grad():
            self._kept |= {prompt: read([prompt]).to(cpu) for prompt in missing}
        del read
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def features(self, prompts: Sequence[str], device: torch.device) -> PromptFeatures:
        """One row for each prompt, on `device`."""
        self.read_ahead(prompts)
        return PromptFeatures.joined([self._kept[prompt] for prompt in prompts]).to(device)

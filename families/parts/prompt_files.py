"""Features of prompts on disk, one safetensors file each."""

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from families.features import PromptFeatures, TextStream

FIRST, POOLED, FURTHER = "prompt", "pooled", "further."
VALUES, MASK = ".values", ".mask"


class PromptFiles:
    """A folder of features by prompt. Processes may share it; a file is complete or does not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, prompt: str) -> bool:
        return self._path(prompt).is_file()

    def read(self, prompt: str) -> PromptFeatures | None:
        """The features (1, L, D) on the CPU; None where the file is missing."""
        if prompt not in self:
            return None
        with safe_open(self._path(prompt), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        names = {name.removesuffix(VALUES) for name in tensors if name.startswith(FURTHER) and name.endswith(VALUES)}
        further = {name.removeprefix(FURTHER): _stream(tensors, name) for name in sorted(names)}
        first = _stream(tensors, FIRST)
        return PromptFeatures(first.values, tensors.get(POOLED), first.mask, further)

    def write(self, prompt: str, features: PromptFeatures) -> None:
        """Store the features (1, L, D) of a prompt."""
        streams = {FIRST: features.stream} | {f"{FURTHER}{name}": each for name, each in features.further.items()}
        tensors = {f"{name}{VALUES}": each.values for name, each in streams.items()}
        tensors |= {f"{name}{MASK}": each.mask for name, each in streams.items() if each.mask is not None}
        if features.pooled_prompt_embeds is not None:
            tensors[POOLED] = features.pooled_prompt_embeds
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(prompt)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        # tensors may share memory
        save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, unfinished)
        unfinished.replace(path)

    def _path(self, prompt: str) -> Path:
        return self._folder / f"{sha256(prompt.encode('utf-8', 'surrogatepass')).hexdigest()}.safetensors"


def _stream(tensors: Mapping[str, Tensor], name: str) -> TextStream:
    return TextStream(tensors[f"{name}{VALUES}"], tensors.get(f"{name}{MASK}"))

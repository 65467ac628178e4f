"""Every draw comes from a named generator, all derived from one seed."""

import hashlib

import torch


class NamedGenerators:
    """CPU generators by name. Two names never share a stream, and the order of first use does not matter."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def __getitem__(self, name: str) -> torch.Generator:
        if name not in self._generators:
            digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
            seed = int.from_bytes(digest[:8], "little") >> 1
            self._generators[name] = torch.Generator().manual_seed(seed)
        return self._generators[name]

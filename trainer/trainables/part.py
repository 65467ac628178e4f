"""The interface of a trained part, which the loop, the losses and the artifact use."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn

from artifact.layers import Layer


class Part(Protocol):
    """One trained part of the model, such as the denoiser's adapter or the tokens. Creating it adds it to the base."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The fp32 parameters that an optimizer updates."""

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """The parameters without weight decay."""

    def layers(self) -> dict[str, Layer]:
        """Return the changed layers of the artifact, by their names in the file."""

    def rows(self) -> dict[str, Tensor]:
        """Return the rows of new tokens for the artifact, (n, d) each, by the text encoder's name."""

    def set_enabled(self, enabled: bool) -> None:
        """Disable or enable the part. Disabled, the base has its own weights; enabling makes the parameters trainable
        again."""

    def remove(self) -> None:
        """Remove the part from the base."""


class Parts:
    """All parts of one training, by name."""

    def __init__(self, by_name: Mapping[str, Part]) -> None:
        self._by_name = dict(by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Part:
        return self._by_name[name]

    def parameters(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Return the parameters of the named parts. Names of parts that do not exist are ignored."""
        return [parameter for name in names if name in self for parameter in self[name].parameters]

    def layers(self) -> dict[str, Layer]:
        """Return the current layers of all parts, by their names in the file."""
        return {name: layer for part in self._by_name.values() for name, layer in part.layers().items()}

    def rows(self) -> dict[str, Tensor]:
        """Return the current rows of all parts, by the text encoder's name."""
        return {name: rows for part in self._by_name.values() for name, rows in part.rows().items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        """Run the base with its own weights (and the tokens) inside this context."""
        self._set_enabled(False)
        try:
            yield
        finally:
            self._set_enabled(True)

    def remove(self) -> None:
        """Remove all parts from the base, in reverse order of their placement."""
        for part in self._by_name.values():
            part.remove()

    def _set_enabled(self, enabled: bool) -> None:
        for part in self._by_name.values():
            part.set_enabled(enabled)

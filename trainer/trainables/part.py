"""What is put on a base and trained: the interface that the loop, the losses and the artifact know."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn

from artifact.layers import Layer


class Part(Protocol):
    """One trained part of the model, such as the denoiser's adapter or the tokens. Made, it is on the base."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What an optimizer updates, fp32."""

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """Those of the parameters that weight decay must leave alone."""

    def layers(self) -> dict[str, Layer]:
        """What is written for the changed weights, by the name in the file."""

    def rows(self) -> dict[str, Tensor]:
        """What is written for new words, (n, d) each, by the text encoder's name."""

    def set_enabled(self, enabled: bool) -> None:
        """Off, the base's weights are what they were. On, the parameters are trainable again."""

    def remove(self) -> None:
        """Leave the bare base."""


class Parts:
    """All parts of one training, by name."""

    def __init__(self, by_name: Mapping[str, Part]) -> None:
        self._by_name = dict(by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Part:
        return self._by_name[name]

    def parameters(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Those of the named parts, as far as there are such."""
        return [parameter for name in names if name in self for parameter in self[name].parameters]

    def layers(self) -> dict[str, Layer]:
        """As they are now, of all parts, by the name in the file."""
        return {name: layer for part in self._by_name.values() for name, layer in part.layers().items()}

    def rows(self) -> dict[str, Tensor]:
        """As they are now, of all parts, by the text encoder's name."""
        return {name: rows for part in self._by_name.values() for name, rows in part.rows().items()}

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base's own weights (with the tokens), for as long as they are needed."""
        self._set_enabled(False)
        try:
            yield
        finally:
            self._set_enabled(True)

    def remove(self) -> None:
        """Leave the bare base. The part that was put on last goes first."""
        for part in self._by_name.values():
            part.remove()

    def _set_enabled(self, enabled: bool) -> None:
        for part in self._by_name.values():
            part.set_enabled(enabled)

"""The interface of a layer: the stored change of one module's weight."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError


class Layer(ABC):
    """The change of one module's weight."""

    kind: ClassVar[str]
    keys: ClassVar[Mapping[str, str]]
    """The tensor fields of the class, by their keys in the file."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """r; None where the layer has no rank."""

    if TYPE_CHECKING:  # at run time it is a dataclass field, which a property would shadow

        @property
        def alpha(self) -> float | None:
            """The change is scaled by alpha / rank; None where the layer has no rank."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """All tensors of the layer."""

    @abstractmethod
    def fits(self, shape: torch.Size) -> bool:
        """Whether the layer can change a weight of this shape."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """Return the change of `weight` at scale 1."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to write, by key."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build the layer from tensors by key. Raises ArtifactError naming a missing or unknown key, or an invalid
        shape."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the change is certainly zero, as of an untrained layer."""
        return False


class UnrankedLayer(Layer):
    """A layer that has neither rank nor alpha."""

    @property
    def rank(self) -> None:
        return None

    @property
    def alpha(self) -> None:
        return None


def require_known(tensors: Mapping[str, Tensor], known: Collection[str]) -> None:
    """Raises ArtifactError naming a key that is not in `known`."""
    strange = sorted(key for key in tensors if key not in known)
    if strange:
        raise ArtifactError(f"has {strange[0]} together with keys of another kind of layer")

"""The interface of a layer: the change of one module's weight, as a LoRA file holds it."""

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
    """The record's fields that are tensors, by the key in the file."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """r; None where the layer has no rank."""

    if TYPE_CHECKING:  # at run time a field of the records, which a property here would shadow

        @property
        def alpha(self) -> float | None:
            """The change is scaled by alpha / rank; None where the layer has no rank."""

    @property
    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """Every tensor of the layer."""

    @abstractmethod
    def fits(self, shape: torch.Size) -> bool:
        """Whether the layer changes a weight of this shape."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """The change of `weight` at scale 1."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is written, by key."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """What was written. Raises ArtifactError naming the key that is missing, unknown or of no possible shape."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the change is zero for certain: what a layer is that was never trained."""
        return False


def require_known(tensors: Mapping[str, Tensor], known: Collection[str]) -> None:
    """Raises ArtifactError naming a key that is not known."""
    strange = sorted(key for key in tensors if key not in known)
    if strange:
        raise ArtifactError(f"has {strange[0]} beside keys of another kind")

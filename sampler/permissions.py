"""Permissions of a request that comes from an untrusted caller: the models and image sizes that it may use."""

from typing import Protocol


class Permissions(Protocol):
    """Checks of a request. Each raises, with the reason and the remedy, for what is not allowed."""

    def require_model(self, name: str, text: str) -> None:
        """Check the model `text` that the input or LoRA header field `name` names."""

    def require_revision(self, revision: str) -> None:
        """Check the revision of a hub model that a LoRA's header names."""

    def require_pixels(self, width: int, height: int) -> None:
        """Check the size of an image before it is generated."""


class Everything:
    """The permissions of the machine's owner."""

    def require_model(self, name: str, text: str) -> None:
        """Allow any model."""

    def require_revision(self, revision: str) -> None:
        """Allow any revision."""

    def require_pixels(self, width: int, height: int) -> None:
        """Allow any size."""


EVERYTHING = Everything()

"""What a request may load and draw, where it comes from a caller and not from the owner of the machine."""

from typing import Protocol


class Permissions(Protocol):
    """Each raises, with the reason and the remedy, for what is not allowed."""

    def require_model(self, name: str, text: str) -> None:
        """`text`: the model that the input or LoRA header `name` names."""

    def require_pixels(self, width: int, height: int) -> None:
        """Of a picture that is about to be drawn."""


class Everything:
    """The permissions of the machine's owner."""

    def require_model(self, name: str, text: str) -> None:
        """Any."""

    def require_pixels(self, width: int, height: int) -> None:
        """Any."""


EVERYTHING = Everything()

"""The interface of a captioner."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from preprocess.errors import SetupError

BATCH_SIZE = 4  # images per forward pass, so that memory does not grow with the dataset
OTHER_WAYS = "Or choose another captioner, set `captioner: none`, or add captions as .txt files next to the images."


class CaptionerError(SetupError):
    """A captioner that cannot be loaded or fails. The message names the model, the reason and the remedy."""


class Captioner(Protocol):
    """A loaded model. Equal images always give equal captions."""

    @property
    def model_id(self) -> str:
        """The identity of the weights, a part of the cache key: a hub id with its commit, or a local folder with a
        digest of its files."""

    @property
    def prompt(self) -> str:
        """The prompt of the model, a part of the cache key. Empty: the model gets the image alone."""

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one caption per RGB image, in order, as the model generated it; "" for an empty answer.

        Raises CaptionerError when the model fails.
        """

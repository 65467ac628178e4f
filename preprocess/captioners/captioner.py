"""The interface of a captioner."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from preprocess.errors import DatasetError

BATCH_SIZE = 4  # pictures that a model sees at once, so that memory does not grow with the dataset
OTHER_WAYS = "Or choose another captioner, set `captioner: none`, or give captions as .txt files beside the images."


class CaptionerError(DatasetError):
    """A captioner that cannot be had or does not answer. The text says which, why, and what to do instead."""


class Captioner(Protocol):
    """A loaded model. The same pictures always give the same captions."""

    @property
    def model_id(self) -> str:
        """Which weights answer: a hub id, or a local folder with a digest of its files."""

    @property
    def prompt(self) -> str:
        """What the model is asked; a part of the cache key. Empty: it is only shown the picture."""

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption an RGB image, in the same order, as the model worded it; "" where it said nothing.

        Raises CaptionerError when the model cannot answer.
        """

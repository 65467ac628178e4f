"""The interface of a face detector, and the minimum size of a face."""

from typing import Protocol

from PIL import Image

from preprocess.dataset import FaceBox

LONGEST_SIDE = 640  # pixels of the detector's input: a larger one finds no more relevant faces, and takes longer
MIN_SCORE = 0.8  # objects that networks mistake for faces (engines, galaxies, fur) score 0.5 to 0.75
MIN_SHARE = 0.04  # of the image's short side: smaller faces are bystanders


class FaceDetector(Protocol):
    """Detects faces."""

    @property
    def name(self) -> str:
        """The name of the detector in settings and reports."""

    def detect(self, image: Image.Image) -> list[FaceBox]:
        """Return the faces in an RGB image, best score first, also in an image that is rotated by a multiple of 90°.

        Every box is inside the image, scores at least MIN_SCORE and has a side of MIN_SHARE of the short side.
        """

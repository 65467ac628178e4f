"""The interface of a face detector, and the minimum size of a face."""

from typing import Protocol

from PIL import Image

from preprocess.dataset import FaceBox

LONGEST_SIDE = 640  # pixels that a detector looks at: more finds no more faces that matter, and takes longer
MIN_SCORE = 0.8  # what the networks mistake for faces (engines, galaxies, fur) scores 0.5 to 0.75
MIN_SHARE = 0.04  # of the picture's short side: smaller faces are bystanders


class FaceDetector(Protocol):
    """Finds faces."""

    @property
    def name(self) -> str:
        """How the detector is called in settings and reports."""

    def detect(self, image: Image.Image) -> list[FaceBox]:
        """The faces in an RGB picture, best score first; also those of a picture that lies on its side.

        Every box lies inside the picture, scores at least MIN_SCORE and has a side of MIN_SHARE of the short side.
        """

"""The Haar cascade that OpenCV 4 includes. Finds frontal faces that are upright within some 20 degrees.

Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features" (2001); the cascade is Lienhart's
frontalface_alt2. It finds no profiles and, below some 30 pixels, no faces.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from preprocess.dataset import FaceBox
from preprocess.errors import SetupError
from preprocess.faces.boxes import to_face
from preprocess.faces.detector import MIN_SCORE, MIN_SHARE
from preprocess.faces.search import search

CASCADE = "haarcascade_frontalface_alt2.xml"
STAGES = 20  # of that cascade
NEEDED_VOTE = 53.7556  # the threshold of its last stage
SURE_MARGIN = 1.75  # above the threshold: photographed faces had 1.8 to 4, others at most 1.7 (6 neighbours or more)
STEP = 1.1  # factor between searched sizes
NEIGHBOURS = 6  # overlapping detections that make a face
WINDOW = 20  # pixels, side of the smallest face that the cascade can detect


class HaarDetector:
    """Raises SetupError when this OpenCV has no Haar cascades (OpenCV 5 removed them)."""

    name = "haar"

    def __init__(self) -> None:
        path = Path(cv2.__file__).parent / "data" / CASCADE
        if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
            raise SetupError(
                f"OpenCV {cv2.__version__} has no Haar cascades; pip install 'opencv-python-headless<5', "
                'or choose "yunet" with its model file'
            )
        self._cascade = cv2.CascadeClassifier(str(path))

    def detect(self, image: Image.Image) -> list[FaceBox]:
        """As `FaceDetector.detect`."""
        return search(image, self._find)

    def _find(self, small: Image.Image) -> list[FaceBox]:
        grey = np.array(small.convert("L"))
        side = max(WINDOW, round(MIN_SHARE * min(grey.shape)))
        boxes, stages, votes = self._cascade.detectMultiScale3(
            grey, scaleFactor=STEP, minNeighbors=NEIGHBOURS, minSize=(side, side), outputRejectLevels=True
        )
        return [
            to_face(box, vote_score(vote))
            for box, stage, vote in zip(boxes, stages, votes, strict=True)
            if stage >= STAGES
        ]


def vote_score(vote: float) -> float:
    """Map the vote of the cascade's last stage to a score that is comparable to the networks' probabilities.

    1 - (1 - MIN_SCORE)^(margin / SURE_MARGIN), with the margin above the stage's threshold: 0 at the threshold,
    MIN_SCORE at SURE_MARGIN, approaching 1 above.
    """
    return float(1 - (1 - MIN_SCORE) ** (max(0.0, vote - NEEDED_VOTE) / SURE_MARGIN))

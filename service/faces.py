"""Detects and embeds the faces of a conditioning image, with the operator's models."""

import torch
from PIL import Image
from torch import Tensor

from preprocess.control.faces import as_fractions
from preprocess.errors import DatasetError
from preprocess.faces.people import face_look
from sampler.request import RequestError
from settings.preparation import DataConfig


def find_faces(picture: Image.Image) -> Tensor:
    """Return the faces of an RGB image, (N, 4 + P) as in `families.controls.faces`, at most as many as in training.

    Raises RequestError where there are none, and where a model of FACE_RECOGNITION_MODEL or FACE_DETECTOR_MODEL is
    missing.
    """
    defaults = DataConfig()
    try:
        faces = as_fractions(face_look(defaults).embed(picture), picture.size)
    except DatasetError as error:
        raise RequestError(f"controlnet: {error}") from error
    if not len(faces):
        raise RequestError(
            "control_image: no face was detected, and the ControlNet is conditioned on faces; use another image"
        )
    return torch.from_numpy(faces[: defaults.control_max_faces])

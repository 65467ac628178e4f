"""The ControlNet of a request: located, checked, and added to the base model."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from artifact.controlnet.files import read_controlnet
from artifact.errors import ArtifactError
from families.controls.control import Controllable, control_pixels, controllable
from families.controls.faces import reads_faces
from families.family import ModelFamily
from fetching.cache import DownloadCache
from fetching.download import download, is_url, shown
from fetching.hub import find_on_hub, is_hub_reference
from fetching.rules import FetchRules
from sampler.extras import Steering
from sampler.images.starting_picture import fitted_picture
from sampler.request import Control, RequestError


@contextmanager
def controlnet_file(steering: Steering) -> Iterator[Path]:
    """Yield the file or folder of a ControlNet, available inside this context. Raises ArtifactError or
    DownloadError."""
    location, rules = steering.location, steering.rules or FetchRules.from_environment()
    if location.startswith("data:"):
        with tempfile.TemporaryDirectory() as folder:
            yield download(location, Path(folder) / "controlnet.safetensors").path
        return
    path = Path(os.path.expanduser(location))
    if is_url(location):
        cached = DownloadCache.from_environment().using(
            rules.cache_key(location), lambda folder: download(location, folder / "download", rules=rules)
        )
    elif steering.local_files and os.path.exists(path):
        yield path
        return
    elif is_hub_reference(location):
        found = find_on_hub(location, rules, local_files=steering.local_files)
        cached = DownloadCache.from_environment().using(found.key, found.fetch)
    elif steering.local_files:
        raise ArtifactError(f"controlnet: {location} does not exist, and is neither a URL nor a hub id")
    else:
        raise ArtifactError(f"controlnet: {location[:100]!r} is neither an upload, nor a URL, nor a hub id")
    with cached as file:
        yield file


def load_control(path: Path, steering: Steering, family: ModelFamily) -> Control:
    """Load the ControlNet, checked against the base model. Raises ArtifactError or RequestError."""
    require_controllable(family)
    controlnet = read_controlnet(path, family, shown_location(steering.location))
    if not reads_faces(controlnet):
        return Control(controlnet, steering.picture, steering.scale)
    if steering.find_faces is None:
        raise RequestError(
            "controlnet: is conditioned on faces, and face detection is not available; use one that is conditioned "
            "on images"
        )
    return Control(controlnet, steering.picture, steering.scale, steering.find_faces)


def shown_location(location: str) -> str:
    """Return the location for errors and parameters, without secrets."""
    if is_url(location):
        return shown(location)
    return location if is_hub_reference(location) else Path(location).name


def require_controllable(family: ModelFamily) -> Controllable:
    """Raises RequestError for a family without ControlNets."""
    maker = controllable(family)
    if maker is None:
        raise RequestError(f"controlnet: base models of the family {family.name} have no ControlNets; leave it out")
    return maker


def fitted_control(control: Control, size: tuple[int, int]) -> Tensor:
    """Return the ControlNet's input for the image scaled to cover `size` (width, height) and cropped at the centre: its
    pixels (1, 3, H, W), or its faces (1, N, 4 + P)."""
    if control.find_faces is None:
        return fitted_pixels(control.picture, size)
    return control.find_faces(fitted_picture(control.picture, size))[None]


def fitted_pixels(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return a ControlNet's input (1, 3, H, W): upright, scaled to cover `size` (width, height), cropped at the
    centre."""
    upright = ImageOps.exif_transpose(picture)
    transparent = upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info
    fitted = ImageOps.fit(upright.convert("RGBA" if transparent else "RGB"), size, Image.Resampling.LANCZOS)
    return control_pixels(torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)[None])

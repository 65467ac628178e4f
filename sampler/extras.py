"""Loads additional models of a request, such as refiner and safety checker."""

from dataclasses import dataclass

from PIL import Image

from fetching.rules import FetchRules
from sampler.request import FindFaces


@dataclass(frozen=True)
class Steering:
    """`location`: of a ControlNet: a URL, an upload, a hub id, and where `local_files` a path. `picture`: what it is
    conditioned on. `rules`: of downloads; by default the environment's. `find_faces`: as in `Control`, and
    raises RequestError where there are none, or where nothing is there to find them."""

    location: str
    picture: Image.Image
    scale: float = 1.0
    local_files: bool = False
    rules: FetchRules | None = None
    find_faces: FindFaces | None = None


@dataclass(frozen=True)
class Extras:
    """Additional models, and how the base computes. `refiner`, `safety_checker`: hub ids or folders, None for none.
    `vae`: in place of the base's own; None: the one that the LoRA was trained with. `go_fast`: products in fp8.

    `refiner_start`: the fraction of the noise schedule, in (0, 1), after which the refiner denoises.
    """

    refiner: str | None = None
    refiner_start: float = 0.8
    safety_checker: str | None = None
    steering: Steering | None = None
    vae: str | None = None
    go_fast: bool = False


NO_EXTRAS = Extras()

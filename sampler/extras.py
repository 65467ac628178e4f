"""Loads additional models of a request, such as refiner and safety checker."""

from dataclasses import dataclass

from PIL import Image

from fetching.rules import FetchRules
from sampler.request import FindFaces


@dataclass(frozen=True)
class Steering:
    """`location`: of a ControlNet: a URL, an upload, a hub id, and with `local_files` a path. `picture`: its
    conditioning image. `rules`: for downloads; by default those of the environment. `find_faces`: as in `Control`;
    raises RequestError if there are no faces or no detector."""

    location: str
    picture: Image.Image
    scale: float = 1.0
    local_files: bool = False
    rules: FetchRules | None = None
    find_faces: FindFaces | None = None


@dataclass(frozen=True)
class Extras:
    """Additional models, and options of the base model. `refiner`, `safety_checker`: hub ids or folders, or None.
    `vae`: replaces the base model's own; None: the one that the LoRA was trained with. `go_fast`: matrix products in
    fp8.

    `refiner_start`: the fraction of the noise schedule, in (0, 1), after which the refiner denoises.
    """

    refiner: str | None = None
    refiner_start: float = 0.8
    safety_checker: str | None = None
    steering: Steering | None = None
    vae: str | None = None
    go_fast: bool = False


NO_EXTRAS = Extras()

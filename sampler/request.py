"""A request for images, and the check that a base supports it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from families.family import ModelFamily, PromptReader, clip_reader, restoring
from sampler.schedulers import BASE_SCHEDULER, known_schedulers

MAX_SIDE = 4096
NATIVE_RATIO = "native"
ASPECT_RATIOS = (NATIVE_RATIO, "1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
"""Width to height. native: that of the input image, otherwise a square."""
MAX_OUTPUTS = 64
MAX_STEPS = 1000
MAX_GUIDANCE = 100
MAX_CONTROL_SCALE = 10
MAX_SEED = 2**64 - 1
LARGEST_STRETCH = 0.02
"""Largest relative difference between the aspect ratios of mask and image, for the rounding of scaled copies."""


class RequestError(ValueError):
    """A request for images that cannot be fulfilled. The message names the remedy."""


FindFaces = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Control:
    """`controlnet`: in the base model's precision. `picture`: the conditioning image; for inpainting, transparent in
    the area to generate. `scale`: 0 none, 1 as trained. `find_faces`: for face conditions, detects the faces of the
    image at its final size: (N, 4 + P), as in `families.controls.faces`."""

    controlnet: Any
    picture: Image.Image
    scale: float = 1.0
    find_faces: FindFaces | None = None


@dataclass(frozen=True)
class SampleRequest:
    """A request for images.

    `width` and `height` in pixels; None: the base's native size. `aspect_ratio`: one of ASPECT_RATIOS, instead of both,
    at about the area of that size. Image i has the seed `seed` + i. `image`: an input
    image, changed by `strength` in (0, 1]. `mask`: white pixels are inpainted, black ones are kept. `clip_skip`: number
    of last layers of the CLIP text encoders that are skipped. `guidance_rescale`: φ of Lin et al. 2023, §3.4, in [0,
    1]: how far the standard deviation of the guided prediction is rescaled to that of the conditional prediction.
    `left_open`: names of fields that get the base model's default (`filled`). `control`: a
    ControlNet and its conditioning image.
    """

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    aspect_ratio: str = NATIVE_RATIO
    num_outputs: int = 1
    num_inference_steps: int = 30
    guidance_scale: float = 6.0
    scheduler: str = BASE_SCHEDULER
    seed: int = 0
    image: Image.Image | None = None
    mask: Image.Image | None = None
    strength: float = 0.8
    clip_skip: int = 0
    guidance_rescale: float = 0.0
    left_open: tuple[str, ...] = ()
    control: Control | None = None


def filled(request: SampleRequest, family: ModelFamily) -> SampleRequest:
    """Return the request with the base's defaults for the fields in `left_open`."""
    own = {name: getattr(family.defaults, name) for name in request.left_open}
    return replace(request, **own, left_open=())


def check_request(request: SampleRequest, family: ModelFamily) -> None:
    """Raises RequestError when the base does not support the request. Called before memory is allocated."""
    if restoring(family) is not None:
        raise RequestError(
            f"base_model: the family {family.name} reconstructs images and cannot generate from a prompt; set it to "
            "a base model of Stage C, and lora to the trained file"
        )
    check_aspect_ratio(request)
    multiple = family.size_multiple
    largest = min(MAX_SIDE, family.largest_side or MAX_SIDE)
    for name, value in (("width", request.width), ("height", request.height)):
        if value is not None and (value % multiple or not multiple <= value <= largest):
            lower = max(multiple, value // multiple * multiple)
            raise RequestError(
                f"{name}: {value} must be a multiple of {multiple} between {multiple} and {largest} for this "
                f"base model, such as {min(lower, largest)}"
            )
    if not 1 <= request.num_inference_steps <= MAX_STEPS or not 1 <= request.num_outputs <= MAX_OUTPUTS:
        raise RequestError(
            f"num_inference_steps must be at least 1 and at most {MAX_STEPS}, num_outputs at least 1 and at most "
            f"{MAX_OUTPUTS}"
        )
    if not 0 <= request.guidance_scale <= MAX_GUIDANCE:
        raise RequestError(f"guidance_scale: {request.guidance_scale:g} must be between 0 and {MAX_GUIDANCE}")
    scheduler = family.pipeline().scheduler
    if request.num_inference_steps == 1 and scheduler.config.get("shift_terminal"):
        raise RequestError(
            "num_inference_steps: 1 is too few for this base model, whose schedule (shift_terminal) needs at least 2 "
            "steps"
        )
    known = known_schedulers(scheduler)
    if request.scheduler not in known:
        raise RequestError(
            f"scheduler: {request.scheduler!r} is not supported by this base model; choose one of {', '.join(known)}"
        )
    if not 0 <= request.seed <= MAX_SEED - request.num_outputs + 1:
        raise RequestError("seed: must be between 0 and 2^64 - 1, including the seed of the last image")
    if not 0 <= request.guidance_rescale <= 1:
        raise RequestError(f"guidance_rescale: {request.guidance_rescale:g} must be between 0 and 1, such as 0.7")
    if request.control is not None and not 0 <= request.control.scale <= MAX_CONTROL_SCALE:
        raise RequestError(f"control_scale: {request.control.scale:g} must be between 0 and {MAX_CONTROL_SCALE}")
    _check_starting_picture(request)
    check_clip_skip(request.clip_skip, family)


def check_aspect_ratio(request: SampleRequest) -> None:
    """Raises RequestError for an unknown aspect ratio, and for one with a width or height. Needs no base model."""
    if request.aspect_ratio not in ASPECT_RATIOS:
        raise RequestError(f"aspect_ratio: {request.aspect_ratio!r} is not one of {', '.join(ASPECT_RATIOS)}")
    if request.aspect_ratio != NATIVE_RATIO and (request.width or request.height):
        raise RequestError("aspect_ratio: cannot be combined with width or height; leave one of them out")


def _check_starting_picture(request: SampleRequest) -> None:
    if request.mask is not None and request.image is None:
        raise RequestError("mask: needs image, the input image in which the white area of the mask is generated")
    if request.image is None:
        return
    _check_mask(request.image, request.mask)
    if not 0 < request.strength <= 1:
        raise RequestError(f"strength: {request.strength:g} must be above 0 and at most 1")
    if int(request.num_inference_steps * request.strength) < 1:
        raise RequestError(
            f"strength: {request.strength:g} of {request.num_inference_steps} steps is less than one step. "
            "Increase strength or num_inference_steps."
        )


def _check_mask(image: Image.Image, mask: Image.Image | None) -> None:
    """Raises RequestError for a mask of another aspect ratio, which would not be aligned with the image.

    A mask of another size with the same aspect ratio is scaled.
    """
    if mask is None:
        return
    width, height = ImageOps.exif_transpose(image).size
    mask_width, mask_height = ImageOps.exif_transpose(mask).size
    if abs((mask_width * height) / (mask_height * width) - 1) > LARGEST_STRETCH:
        raise RequestError(
            f"mask: is {mask_width} x {mask_height} pixels, and image is {width} x {height}: the aspect ratios "
            "differ, so the mask is not aligned. Use a mask of the same size."
        )


def check_clip_skip(clip_skip: int, family: PromptReader) -> None:
    """Raises RequestError for more layers than the text encoders have, or for a family whose encoder layers are
    fixed."""
    if clip_skip == 0:
        return
    if clip_reader(family) is None:
        raise RequestError(f"clip_skip: {family.name} uses fixed layers of its text encoders; leave it at 0")
    highest = min(int(encoder.config.num_hidden_layers) for encoder in family.text_encoders) - 1
    if not 0 <= clip_skip <= highest:
        raise RequestError(f"clip_skip: must be between 0 and {highest} for this base model")

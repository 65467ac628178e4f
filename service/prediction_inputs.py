"""Inputs of the predictor, for Cog and the command, and the images made from them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from fetching.rules import FetchRules
from preprocess.uploads.decoding import readable_formats, upright_in_8_bits
from sampler.extras import Extras, Steering
from sampler.generation import Generation, chosen_seed
from sampler.images.files import OUTPUT_FORMATS, save_images
from sampler.prompts.token_strength import parse_token_strength, with_token_strength
from sampler.request import NATIVE_RATIO, RequestError, SampleRequest, check_aspect_ratio
from sampler.schedulers import BASE_SCHEDULER
from sampler.weights import ScaledArtifact, read_weights, rescaled
from service.faces import find_faces
from settings.callers import Limited, Model, Open

MAX_OUTPUTS = 8
BY_BASE = ("num_inference_steps", "guidance_scale")
"""Inputs whose default is the base model's own value."""
NAMES = ("lora", "replicate_weights", "base_model", "vae", "refiner", "safety_checker", "controlnet")
"""Inputs that name files, URLs or models."""
MAX_PICTURE_BYTES = 64 * 1024**2
MAX_PICTURE_PIXELS = 50_000_000
MAX_EXIF_BYTES = 60_000
"""Of both prompts in UTF-16, besides the other parameters: a JPEG has 65,533 bytes for EXIF."""
SECONDS_BETWEEN_LINES = 2.0

Metric = Callable[[str, float | int], None]


@dataclass(frozen=True)
class PredictionInputs:
    """The inputs of Cog's predictor and the options of the command, by the same names and with the same defaults."""

    prompt: Open[str]
    negative_prompt: Open[str] = ""
    lora: Open[str | None] = None
    replicate_weights: Open[str | None] = None
    lora_scale: Open[str] = "recommended"
    token_strength: Open[str] = "1"
    base_model: Model[str | None] = None
    vae: Model[str | None] = None
    image: Open[Path | None] = None
    mask: Open[Path | None] = None
    strength: Open[float] = 0.8
    width: Limited[int | None] = None
    height: Limited[int | None] = None
    aspect_ratio: Open[str] = NATIVE_RATIO
    num_outputs: Limited[int] = 1
    scheduler: Open[str] = BASE_SCHEDULER
    num_inference_steps: Limited[int | None] = None
    guidance_scale: Open[float | None] = None
    guidance_rescale: Open[float] = 0.0
    clip_skip: Open[int] = 0
    seed: Open[int | None] = None
    go_fast: Open[bool] = False
    output_format: Open[str] = "png"
    output_quality: Open[int] = 90
    refiner: Model[str | None] = None
    refiner_start: Open[float] = 0.8
    safety_checker: Model[str | None] = None
    controlnet: Open[str | None] = None
    control_image: Open[Path | None] = None
    control_scale: Open[float] = 1.0


@dataclass(frozen=True)
class Prediction:
    """The written files, their generation parameters, the request's seed, and the LoRAs' trigger words."""

    paths: list[Path]
    parameters: list[str]
    seed: int
    triggers: tuple[str, ...]


def predict(
    inputs: PredictionInputs,
    generation: Generation,
    folder: Path,
    *,
    default_loras: list[ScaledArtifact] | None = None,
    local_files: bool = False,
    rules: FetchRules | None = None,
    say: Callable[[str], None],
    metric: Metric,
) -> Prediction:
    """Generate the images of a request into `folder`. `default_loras` are used where the inputs name none.

    `rules`: for URLs and hub ids in the inputs; None: those of the environment. Raises RequestError, ArtifactError,
    DownloadError or BaseModelError. The LoRAs are always removed from the base afterwards.
    """
    inputs = without_blanks(inputs)
    request = build_request(inputs)
    steering = _steering(inputs, local_files, rules)
    extras = Extras(inputs.refiner, inputs.refiner_start, inputs.safety_checker, steering, inputs.vae, inputs.go_fast)
    strengths = parse_token_strength(inputs.token_strength)
    say(f"seed: {request.seed}")
    metric("seed", request.seed)
    loras = with_token_strength(_loras(inputs, default_loras or [], local_files, rules), strengths)
    begun = time.monotonic()
    drawn = generation.generate(request, loras, inputs.base_model, _Reporter(say, metric), extras)
    metric("seconds_per_image", round((time.monotonic() - begun) / request.num_outputs, 4))
    if inputs.safety_checker:
        metric("withheld_images", len(drawn.withheld))
    paths = save_images(drawn.images, folder, drawn.parameters, inputs.output_format, inputs.output_quality)
    return Prediction(paths, list(drawn.parameters.values()), request.seed, drawn.triggers)


def without_blanks(inputs: PredictionInputs) -> PredictionInputs:
    """Return the inputs with None for empty names, which web forms send for fields that are not filled in."""
    empty: dict[str, Any] = {name: None for name in NAMES if not (getattr(inputs, name) or "").strip()}
    return replace(inputs, **empty)


def build_request(inputs: PredictionInputs) -> SampleRequest:
    """Return the request, with its seed. Raises RequestError for values that no base supports."""
    if not 1 <= inputs.num_outputs <= MAX_OUTPUTS:
        raise RequestError(f"num_outputs: must be at least 1 and at most {MAX_OUTPUTS}")
    if inputs.output_format not in OUTPUT_FORMATS:
        raise RequestError(f"output_format: {inputs.output_format!r} is not one of {', '.join(OUTPUT_FORMATS)}")
    if not 1 <= inputs.output_quality <= 100:
        raise RequestError("output_quality: must be between 1 and 100")
    _require_writable(inputs)
    given = {name: value for name in BY_BASE if (value := getattr(inputs, name)) is not None}
    request = SampleRequest(
        prompt=inputs.prompt,
        negative_prompt=inputs.negative_prompt,
        width=inputs.width,
        height=inputs.height,
        aspect_ratio=inputs.aspect_ratio,
        num_outputs=inputs.num_outputs,
        scheduler=inputs.scheduler,
        seed=chosen_seed(inputs.seed),
        image=_open_picture(inputs.image, "image"),
        mask=_open_picture(inputs.mask, "mask"),
        strength=inputs.strength,
        clip_skip=inputs.clip_skip,
        guidance_rescale=inputs.guidance_rescale,
        left_open=tuple(name for name in BY_BASE if name not in given),
        **given,
    )
    check_aspect_ratio(request)
    return request


def _require_writable(inputs: PredictionInputs) -> None:
    """Raises RequestError for prompts that an image file cannot contain."""
    try:
        size = len(f"{inputs.prompt}{inputs.negative_prompt}".encode("utf-16-be"))
    except UnicodeEncodeError:
        raise RequestError("prompt: contains half of a character (a single surrogate). Remove it.") from None
    if inputs.output_format != "png" and size > MAX_EXIF_BYTES:
        raise RequestError(
            f"output_format: prompts of this length do not fit into the metadata of {inputs.output_format}; set png"
        )


def _steering(inputs: PredictionInputs, local_files: bool, rules: FetchRules | None) -> Steering | None:
    """Return the ControlNet and its conditioning image. Raises RequestError if only one of them is given."""
    picture = _open_picture(inputs.control_image, "control_image")
    if inputs.controlnet and picture is not None:
        return Steering(inputs.controlnet, picture, inputs.control_scale, local_files, rules, find_faces)
    if inputs.controlnet:
        raise RequestError("controlnet: needs control_image, the conditioning image")
    if picture is not None or inputs.control_scale != 1:
        name = "control_scale" if picture is None else "control_image"
        raise RequestError(f"{name}: has no effect without controlnet; leave it out")
    return None


def _loras(
    inputs: PredictionInputs, default_loras: list[ScaledArtifact], local_files: bool, rules: FetchRules | None
) -> list[ScaledArtifact]:
    if inputs.lora and inputs.replicate_weights:
        raise RequestError("lora and replicate_weights are two names of the same input; give only one of them")
    named = inputs.lora or inputs.replicate_weights
    if named:
        return read_weights(named, inputs.lora_scale, local_files=local_files, rules=rules)
    return rescaled(default_loras, inputs.lora_scale)


def _open_picture(path: Path | None, name: str) -> Image.Image | None:
    """Open and decode an image: upright, in 8 bits. Raises RequestError."""
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise RequestError(f"{name}: is larger than {MAX_PICTURE_BYTES:,} bytes")
        with Image.open(path, formats=readable_formats()) as image:
            if image.width * image.height > MAX_PICTURE_PIXELS:  # before decoding
                raise RequestError(
                    f"{name}: has {image.width} × {image.height} pixels; the limit is {MAX_PICTURE_PIXELS:,} pixels"
                )
            image.load()
            return upright_in_8_bits(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{name}: cannot be read as an image ({type(error).__name__})") from error


class _Reporter:
    """Reports the progress of sampling by a line and a metric, at most every two seconds."""

    def __init__(self, say: Callable[[str], None], metric: Metric) -> None:
        self._say, self._metric, self._last = say, metric, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done < total and time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        self._metric("progress", round(done / total, 4))
        self._say(f"generating: {100 * done // total} %")

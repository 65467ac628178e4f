"""Generation parameters of an image in A1111's text format."""

from collections.abc import Sequence

from sampler.extras import NO_EXTRAS, Extras
from sampler.images.control import shown_location
from sampler.request import SampleRequest
from sampler.weights import ScaledArtifact
from settings.public import public_name

SAMPLER_NAMES = {
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "unipc": "UniPC",
}
"""A1111's names of the schedulers. Other schedulers keep their own name."""


def parameters_text(
    request: SampleRequest,
    index: int,
    size: tuple[int, int],
    base_model: str,
    loras: Sequence[ScaledArtifact],
    extras: Extras = NO_EXTRAS,
) -> str:
    """Return the prompt, the negative prompt, and one line of settings. `index`: the number of the image in the
    request."""
    settings: dict[str, object] = {
        "Steps": request.num_inference_steps,
        "Sampler": SAMPLER_NAMES.get(request.scheduler, request.scheduler),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": request.seed + index,
        "Size": f"{size[0]}x{size[1]}",
        "Model": public_name(base_model),
    }
    if request.guidance_rescale:
        settings["CFG Rescale"] = f"{request.guidance_rescale:g}"
    if request.image is not None:
        settings["Denoising strength"] = f"{request.strength:g}"
    if request.clip_skip:
        settings["Clip skip"] = request.clip_skip + 1  # A1111 counts the last layer as 1
    if extras.go_fast:
        settings["Precision"] = "fp8"
    if extras.refiner:
        settings["Refiner"] = public_name(extras.refiner)
        settings["Refiner switch at"] = f"{extras.refiner_start:g}"
    if extras.steering:
        settings["ControlNet"] = f"{shown_location(extras.steering.location)}, {extras.steering.scale:g}"
    if loras:
        settings["Loras"] = "; ".join(f"{lora.name}: {lora.scale:g}" for lora in loras)
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items())
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n{line}"


def _quoted(value: str) -> str:
    """Quote a value that contains separators, as A1111 does."""
    if not any(sign in value for sign in ',:"\n'):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

"""Builds the diffusers pipeline of a request from modules that are already loaded."""

import inspect
from typing import Any

import diffusers

from families.family import ModelFamily
from sampler.images.control import fitted_control, require_controllable
from sampler.images.starting_picture import drawn_size, fitted_mask, fitted_picture
from sampler.request import RequestError, SampleRequest


def pipeline_for(request: SampleRequest, family: ModelFamily) -> Any:
    """Return a text-to-image, image-to-image or inpainting pipeline that shares the family's modules.

    Raises RequestError if the family has no such pipeline.
    """
    pipeline = _text_to_image(request, family)
    if request.image is None:
        return pipeline
    automatic: Any = diffusers  # its automatic pipelines import all pipelines, so they are only accessed when needed
    kind = automatic.AutoPipelineForImage2Image if request.mask is None else automatic.AutoPipelineForInpainting
    try:
        made = kind.from_pipe(pipeline)
    except ValueError:  # not in the table of diffusers' automatic pipelines
        made = _of_that_name(pipeline, "Img2ImgPipeline" if request.mask is None else "InpaintPipeline")
    if made is None or "strength" not in inspect.signature(made.__call__).parameters:
        wanted = "image" if request.mask is None else "mask"
        raise RequestError(
            f"{wanted}: diffusers has no such pipeline for {type(pipeline).__name__} ({family.name}); leave it out"
        )
    made.set_progress_bar_config(disable=True)
    return made


def _of_that_name(pipeline: Any, ending: str) -> Any:
    """Return the pipeline with the same modules and another name ending, such as Flux2KleinInpaintPipeline, or None."""
    kind = getattr(diffusers, type(pipeline).__name__.replace("Pipeline", ending), None)
    return None if kind is None else kind.from_pipe(pipeline)


def _text_to_image(request: SampleRequest, family: ModelFamily) -> Any:
    if request.control is None:
        return family.pipeline()
    pipeline = require_controllable(family).control_pipeline(request.control.controlnet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def guidance_inputs(request: SampleRequest, family: ModelFamily, pipeline: Any) -> dict[str, Any]:
    """Return guidance as arguments of the pipeline. Raises RequestError if the pipeline cannot rescale guidance.

    Pipelines that were written for distilled denoisers call the scale of classifier-free guidance `true_cfg_scale`.
    """
    apart = family.guidance_kind == "classifier-free" and _takes(pipeline, "true_cfg_scale")
    inputs: dict[str, Any] = {"true_cfg_scale" if apart else "guidance_scale": request.guidance_scale}
    if apart and request.guidance_scale <= 1:  # one pass: such a pipeline warns about a negative prompt
        inputs |= {"negative_prompt_embeds": None, "negative_prompt_embeds_mask": None}
    if request.guidance_rescale == 0:
        return inputs
    if not takes_guidance_rescale(pipeline):
        raise RequestError(f"guidance_rescale: diffusers' {type(pipeline).__name__} does not support it. Set 0.")
    return inputs | {"guidance_rescale": request.guidance_rescale}


def takes_guidance_rescale(pipeline: Any) -> bool:
    """Whether the pipeline can rescale guidance (Lin et al. 2023, §3.4)."""
    return _takes(pipeline, "guidance_rescale")


def _takes(pipeline: Any, argument: str) -> bool:
    return argument in inspect.signature(pipeline.__call__).parameters


def picture_inputs(request: SampleRequest, family: ModelFamily, pipeline: Any) -> dict[str, Any]:
    """Return the size, input image, mask and conditioning image as arguments of the pipeline."""
    width, height = drawn_size(request, family)
    inputs: dict[str, Any] = {"width": width, "height": height}
    if request.image is not None:
        inputs |= {"image": fitted_picture(request.image, (width, height)), "strength": request.strength}
    if request.mask is not None:
        inputs["mask_image"] = fitted_mask(request.mask, (width, height))
    if request.control is not None:
        name = "image" if request.image is None else "control_image"
        inputs |= {
            name: fitted_control(request.control, (width, height)),
            "controlnet_conditioning_scale": request.control.scale,
        }
    taken = inspect.signature(pipeline.__call__).parameters
    return {name: value for name, value in inputs.items() if name in taken}

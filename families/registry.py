"""The list of families. A new one is a file in this folder and a line in FAMILIES."""

from dataclasses import replace
from pathlib import Path

import torch

from families.cascade.family import Cascade
from families.cascade.stage_b import StageB
from families.errors import BaseModelError
from families.family import ModelFamily
from families.flux1 import Flux1
from families.flux2 import DEV_PIPELINE, Flux2
from families.loading.allowed import require_allowed
from families.loading.kept_base import KEPT, stamp_of
from families.loading.opening import LoadingOptions, PredictionChoice
from families.loading.own_vae import use_vae
from families.loading.single_file import inspect_single_file
from families.loading.sources import BaseModelSource, find_base_model, find_configuration, pipeline_class_name
from families.qwen_image import QwenImage
from families.sd3 import SD3
from families.sd15 import SD15
from families.sdxl import SDXL
from families.z_image import ZImage

KINDS = (SDXL, SD15, SD3, Flux1, Flux2, QwenImage, ZImage, Cascade, StageB)
FAMILIES = {kind.pipeline_class_name: kind for kind in KINDS} | {DEV_PIPELINE: Flux2}

NO_TEXT_TO_IMAGE = {
    "StableDiffusionXLImg2ImgPipeline": "SDXL's refiner, or another model that only refines images",
    "StableDiffusionXLInpaintPipeline": "an inpainting model",
    "StableDiffusionInpaintPipeline": "an inpainting model",
    "StableDiffusion3InpaintPipeline": "an inpainting model",
    "FluxFillPipeline": "an inpainting model",
    "FluxControlPipeline": "a model conditioned on depth or edges",
    "FluxKontextPipeline": "an image-editing model",
    "QwenImageInpaintPipeline": "an inpainting model",
    "QwenImageEditPipeline": "an image-editing model",
    "QwenImageEditInpaintPipeline": "an image-editing model",
    "QwenImageEditPlusPipeline": "an image-editing model",
    "QwenImageLayeredPipeline": "a model that splits images into layers",
    "ZImageOmniPipeline": "an image-editing model",
    "StableCascadeCombinedPipeline": "all stages of Stable Cascade in one model",
    "StableDiffusionInstructPix2PixPipeline": "an image-editing model",
    "StableDiffusionXLInstructPix2PixPipeline": "an image-editing model",
}
"""Pipelines in the layout of a supported family that are trained differently."""


def load_base_model(
    base_model: str,
    dtype: torch.dtype,
    *,
    base_config: str | None = None,
    prediction_type: PredictionChoice = "auto",
    zero_terminal_snr: bool = False,
    vae: str | None = None,
    base_revision: str | None = None,
    denoiser: bool = True,
) -> ModelFamily:
    """Load `base_model` with the family that the checkpoint itself names: its index, or its tensors' names.

    base_config: folder or hub id with the configurations that a single file lacks. prediction_type: overrides what the
    checkpoint says. zero_terminal_snr: rescale its noise schedule. vae: hub id, folder or file of a VAE in place of
    its own. base_revision: branch, tag or commit of a hub model. denoiser: False for a base that only encodes pictures
    (`LoadingOptions`); it must not be moved by `to`.

    Raises BaseModelError with the remedy, for what the operator does not allow too.
    """
    require_allowed("base_model", base_model)
    for name, model in (("base_config", base_config), ("vae", vae)):
        if model is not None:
            require_allowed(name, model)
    options = LoadingOptions(dtype, base_config, prediction_type, zero_terminal_snr, denoiser)
    source = _at_revision(find_base_model(base_model), base_revision)
    if base_config is not None and source.kind != "file":
        raise BaseModelError(
            f"base_config: {base_model} is a {source.kind} model with its own configuration; leave base_config out, it "
            "is only for single files"
        )
    family = KEPT.take(source, options) or _load(source, options)
    if vae is not None:
        use_vae(family, vae)
    return family


def keep_base_model(
    base_model: str,
    dtype: torch.dtype,
    *,
    prediction_type: PredictionChoice = "auto",
    zero_terminal_snr: bool = False,
    base_revision: str | None = None,
) -> None:
    """Load a base, its denoiser's weights too, and keep it for the first `load_base_model` with these options, in this
    process or in one that is forked from it. Text encoders that never learn are not kept. Raises BaseModelError.
    """
    require_allowed("base_model", base_model)
    options = LoadingOptions(dtype, None, prediction_type, zero_terminal_snr)
    source = _at_revision(find_base_model(base_model), base_revision)
    stamp = stamp_of(source)
    KEPT.keep(source, options, stamp, _load(source, options).to(torch.device("cpu")))


def _load(source: BaseModelSource, options: LoadingOptions) -> ModelFamily:
    """Load a base with its own VAE. Raises BaseModelError."""
    class_name, options = _recognise(source, options)
    if class_name in NO_TEXT_TO_IMAGE:
        raise BaseModelError(
            f"base_model: {source.name} is {NO_TEXT_TO_IMAGE[class_name]} ({class_name}). Train on the text-to-image "
            "model that it was made from."
        )
    if class_name not in FAMILIES:
        raise BaseModelError(
            f"base_model: {source.name} is a {class_name}; supported are {', '.join(sorted(FAMILIES))}. "
            "docs/adding-a-family.md describes how to add a family."
        )
    try:
        return FAMILIES[class_name].load(source, options)
    except ValueError as error:
        if isinstance(error, BaseModelError):
            raise
        raise BaseModelError(f"base_model: {source.name}: {error}") from error


def _at_revision(source: BaseModelSource, revision: str | None) -> BaseModelSource:
    if revision is not None and source.kind != "hub":
        raise BaseModelError(
            f"base_revision: {source.name} is a local {source.kind}, and only hub models have revisions; leave it out"
        )
    return replace(source, revision=revision)


def _recognise(source: BaseModelSource, options: LoadingOptions) -> tuple[str, LoadingOptions]:
    """The pipeline class of a checkpoint, and the options completed with the properties of a single file."""
    if source.kind != "file":
        return pipeline_class_name(source), options
    file = inspect_single_file(Path(source.location))
    if file.parts_from is not None and options.base_config is None:
        raise BaseModelError(
            f"base_config: {source.name} only contains the denoiser of a {file.pipeline_class}. Set base_config to the "
            f"folder or hub model with its VAE and text encoders, such as {file.parts_from}"
        )
    if options.base_config is not None:
        described = pipeline_class_name(find_configuration(options.base_config))
        if described != file.pipeline_class:
            raise BaseModelError(
                f"base_config: {options.base_config} is the configuration of a {described}, but {source.name} is a "
                f"{file.pipeline_class}; give the configuration of that family"
            )
    prediction = file.prediction_type if options.prediction_type == "auto" else options.prediction_type
    zero_terminal_snr = options.zero_terminal_snr or file.zero_terminal_snr
    return file.pipeline_class, replace(options, prediction_type=prediction, zero_terminal_snr=zero_terminal_snr)

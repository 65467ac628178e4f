"""Flags images that should not be returned, with the checker that a request names.

diffusers' StableDiffusionSafetyChecker compares CLIP image features with those of forbidden concepts, each with its
threshold (Rando et al. 2022, arXiv 2210.04610, describe how it works and what it misses).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from transformers import CLIPImageProcessor

from families.loading.allowed import require_allowed
from families.loading.opening import LOADING_ERRORS
from families.loading.sources import HUB_ID, INDEX
from fetching.hub_connection import require_hub
from sampler.request import RequestError

# diffusers would log that it returns black images; here flagged images are withheld, with a warning.
diffusers_logging.get_logger("diffusers.pipelines.stable_diffusion.safety_checker").setLevel(diffusers_logging.ERROR)


class SafetyChecker:
    """A loaded checker with its image processor."""

    def __init__(self, location: str, model: Any, processor: Any) -> None:
        self.location = location
        self._model = model
        self._processor = processor

    @classmethod
    def load(cls, location: str, device: torch.device) -> "SafetyChecker":
        """Load a checker in fp32 from a hub id or a folder, of the checker itself or of a pipeline that contains one.

        Only safetensors are read. Raises BaseModelError when the operator does not allow the model, and RequestError
        when it cannot be loaded or lacks weights: randomly initialised weights would flag arbitrary images.
        """
        require_allowed("safety_checker", location)
        path = Path(location).expanduser()
        if not path.is_dir() and (path.exists() or not HUB_ID.fullmatch(location)):
            raise RequestError(
                f"safety_checker: {location[:100]!r} is neither an existing folder nor a hub id such as "
                "CompVis/stable-diffusion-safety-checker"
            )
        opened = str(path) if path.is_dir() else location
        try:
            require_hub(opened, INDEX)
            inside = _is_pipeline(opened)
            model, report = StableDiffusionSafetyChecker.from_pretrained(
                opened, subfolder="safety_checker" if inside else "", use_safetensors=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
            processor = CLIPImageProcessor.from_pretrained(opened, subfolder="feature_extractor" if inside else "")
        except LOADING_ERRORS as error:
            raise RequestError(
                f"safety_checker: cannot load {location!r}: {type(error).__name__}: {' '.join(str(error).split())} "
                "It needs a StableDiffusionSafetyChecker as safetensors and its preprocessor_config.json, or a "
                "pipeline that contains both. Check the spelling and, for hub ids, the network and HF_TOKEN."
            ) from error
        lacking = sorted(report["missing_keys"])
        if lacking:
            raise RequestError(
                f"safety_checker: {location!r} is not a StableDiffusionSafetyChecker: it has no {lacking[0]}"
                f"{f' and {len(lacking) - 1} other weights' if len(lacking) > 1 else ''}"
            )
        return cls(location, model.to(device).eval(), processor)

    @torch.inference_mode()
    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Return whether each image is flagged."""
        pixels = self._processor(images=list(images), return_tensors="pt").pixel_values.to(self._model.device)
        unused = [np.empty(0) for _ in images]  # diffusers would black out these images
        return [bool(flag) for flag in self._model(clip_input=pixels, images=unused)[1]]


def _is_pipeline(location: str) -> bool:
    """Whether `location` is a pipeline with checker and processor in subfolders, by its model_index.json."""
    if Path(location).is_dir():
        return (Path(location) / INDEX).is_file()
    try:
        hf_hub_download(location, INDEX)
    except EntryNotFoundError:  # not a pipeline; loading the checker reports any error
        return False
    return True

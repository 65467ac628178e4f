"""Detects the family of other tools' LoRA files from header and names; no base model is loaded."""

import re
from collections.abc import Collection, Iterable

SD15, SDXL, SD3, FLUX1, FLUX2, QWEN_IMAGE, Z_IMAGE = "sd15", "sdxl", "sd3", "flux1", "flux2", "qwen_image", "z-image"
CASCADE, CASCADE_B = "cascade", "cascade-b"
COG_SDXL = SDXL
"""The family whose files Replicate's SDXL predictors load."""
STARTS = {
    "stable-diffusion-xl": SDXL,
    "stable-diffusion-3": SD3,
    "flux-1": FLUX1,
    "flux1": FLUX1,
    "flux-2": FLUX2,
    "flux2": FLUX2,
    "qwen-image": QWEN_IMAGE,
    "qwen_image": QWEN_IMAGE,
    "z-image": Z_IMAGE,
    "zimage": Z_IMAGE,
    "stable-cascade-v1-decoder": CASCADE_B,
    "stable_cascade_b": CASCADE_B,
    "stable-cascade": CASCADE,
    "stable_cascade": CASCADE,
    "stable-diffusion-v": SD15,
    "sdxl": SDXL,
    "sd3": SD3,
    "sd_": SD15,
}
"""Prefixes of `modelspec.architecture` and `ss_base_model_version` in kohya's, OneTrainer's and ai-toolkit's files."""


MOST_BLOCKS_OF_SD3 = 38
"""Number of blocks of SD3.5 large."""


def family_of_header(said: Iterable[str]) -> str | None:
    """The family whose architecture is named by one of the texts."""
    texts = list(said)
    return next((family for start, family in STARTS.items() if any(text.startswith(start) for text in texts)), None)


def family_of_encoders(names: Collection[str]) -> str:
    """The family of a file that contains only token embeddings, by their text encoders."""
    if set(names) == {"clip_g"}:
        return CASCADE
    return SDXL if "clip_g" in names else SD15


def family_of_modules(modules: Iterable[tuple[str, str]]) -> str:
    """The family, by names that only its files contain. `modules`: component and path of each. SD2 has the same names
    as SD1.5.

    SDXL has a second text encoder, more than one transformer block per attention, and none in its first block.
    """
    modules = list(modules)
    if any(component == "prior" for component, _ in modules):
        return CASCADE
    if any(component == "decoder" for component, _ in modules):
        return CASCADE_B
    if any(component == "transformer" for component, _ in modules):
        return _family_of_transformer([path for component, path in modules if component == "transformer"])
    unet = [path for component, path in modules if component == "unet"]
    if any(path.startswith(("down_blocks.0.attentions", "up_blocks.3", "down_blocks.3")) for path in unet):
        return SD15
    second = any(component == "text_encoder_2" for component, _ in modules)
    deep = any(re.search(r"transformer_blocks\.[1-9]", path) for path in unet)
    return SDXL if second or deep or any(path.startswith("up_blocks.0.attentions") for path in unet) else SD15


def _family_of_transformer(paths: Collection[str]) -> str:
    """FLUX has single blocks; those of FLUX.2 join attention and feed-forward. Qwen-Image has different names outside
    of attention, and 60 blocks. Z-Image has plain layers."""
    if any(path.startswith(("layers.", "noise_refiner.", "context_refiner.")) for path in paths):
        return Z_IMAGE
    if any(path.endswith((".to_qkv_mlp_proj", ".linear_in", ".linear_out")) for path in paths):
        return FLUX2
    if any(path.startswith("single_transformer_blocks.") for path in paths):
        return FLUX1
    own = any(re.search(r"\.(img|txt)_(mlp|mod)\.", path) for path in paths)
    numbers = (int(found[1]) for path in paths if (found := re.match(r"transformer_blocks\.(\d+)\.", path)))
    return QWEN_IMAGE if own or max(numbers, default=0) >= MOST_BLOCKS_OF_SD3 else SD3


def has_sgm_names(family: str) -> bool:
    """Whether kohya's files have Stability's block names, and numbered text encoders."""
    return family == SDXL


def has_kohya_names(family: str) -> bool:
    """Whether kohya's names have the same meaning in all tools."""
    return family in (SD15, SDXL, CASCADE, CASCADE_B)


def has_prior_names(family: str) -> bool:
    """Whether the text encoder's prefix in kohya's names is that of a prior."""
    return family == CASCADE


def plain_prompt_argument(pipeline: str) -> str | None:
    """The argument of diffusers' pipeline for the encoder that learns no tokens and reads the prompt without them."""
    return "prompt_3" if pipeline.startswith("StableDiffusion3") else None

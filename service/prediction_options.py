"""Options of the predictor's command, checked before slow imports."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from settings.record import Settings

SchedulerChoice = Literal["base", "ddim", "dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_ancestral", "heun", "unipc"]
RatioChoice = Literal[
    "native", "1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"
]  # fmt: skip


class PromptSection(Settings):
    """Negative prompt, number of images, and seed."""

    negative_prompt: str = Field("", description="What should not be in the image")
    num_outputs: int = Field(1, ge=1, le=8, description="Number of images; their seeds are consecutive")
    seed: int | None = Field(
        None, ge=0, lt=2**64, description="Seed of the first image; by default random, and printed"
    )


class LoraSection(Settings):
    """The LoRAs and the base model."""

    lora: str | None = Field(
        None,
        description="LoRAs: files, https URLs, hub ids; several separated by commas or as a JSON list; none: the base "
        "model",
    )
    replicate_weights: str | None = Field(None, description="Replicate's name for --weights")
    lora_scale: str = Field(
        "recommended",
        description="Scale of the LoRAs: 0 none, 1 as trained; one number for all, or a list; recommended: the scale "
        "stored in each file",
    )
    token_strength: str = Field(
        "1", description="Scale of the trigger words' embeddings: 0.8 for all, or TOK=0.8, ANNA=1.2"
    )
    base_model: str | None = Field(None, description="Base model; by default the one that the LoRA was trained on")
    vae: str | None = Field(
        None,
        description="VAE that replaces the base model's: a hub id such as madebyollin/sdxl-vae-fp16-fix, a folder or "
        "file; by default the one that the LoRA was trained with",
    )


class StartingPictureSection(Settings):
    """Input image and mask for image to image and inpainting."""

    image: Path | None = Field(None, description="Input image for image to image")
    mask: Path | None = Field(
        None, description="Mask of the input image: white areas are generated, black areas are kept"
    )
    strength: float = Field(0.8, ge=0, le=1, description="How much the input image is changed: 1 completely")


class SamplerSection(Settings):
    """Size of the images, scheduler and guidance."""

    width: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="Width in pixels; by default that of the input image or the base model's native one",
    )
    height: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="Height in pixels; by default that of the input image or the base model's native one",
    )
    aspect_ratio: RatioChoice = Field(
        "native",
        description="Ratio of width to height, instead of both; native: that of the input image, or the base model's",
    )
    scheduler: SchedulerChoice = Field("base", description="Sampler; base: the base model's own")
    num_inference_steps: int | None = Field(
        None, ge=1, le=500, description="Denoising steps; by default the base model's own number, such as 30"
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=50,
        description="How closely the prompt is followed; by default the base model's own value, such as 6",
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Rescaling against overexposure by guidance: 0 none; usually 0.7 for base models with zero "
        "terminal SNR",
    )
    clip_skip: int = Field(0, ge=0, le=11, description="Number of last layers of the CLIP encoders to skip")
    go_fast: bool = Field(
        False,
        description="Compute matrix products in fp8: faster on GPUs that support it, with slightly different images",
    )


class SecondModelSection(Settings):
    """A refiner, and a safety checker."""

    refiner: str | None = Field(
        None,
        description="SDXL: a second model for the last steps: a hub id such as "
        "stabilityai/stable-diffusion-xl-refiner-1.0, or a folder; by default none",
    )
    refiner_start: float = Field(
        0.8, ge=0, le=1, description="Fraction of the schedule that the base model denoises before the refiner"
    )
    safety_checker: str | None = Field(
        None,
        description="Withhold images that this checker flags: a hub id such as "
        "CompVis/stable-diffusion-safety-checker, or a folder; by default none",
    )


class ControlNetSection(Settings):
    """A ControlNet and its conditioning image."""

    controlnet: str | None = Field(
        None, description="ControlNet: a file or folder, https URL or hub id; by default none"
    )
    control_image: Path | None = Field(
        None,
        description="Conditioning image of the ControlNet (edges, a scribble); for inpainting, transparent in the "
        "area to generate; for faces, a photograph",
    )
    control_scale: float = Field(1.0, ge=0, le=2, description="Scale of the ControlNet: 0 none, 1 as trained")


class ImageFileSection(Settings):
    """Format of the image files."""

    output_format: Literal["png", "webp", "jpg"] = Field("png", description="Format of the files")
    output_quality: int = Field(90, ge=1, le=100, description="Quality of webp and jpg")


class PredictionOptions(
    ImageFileSection,
    ControlNetSection,
    SecondModelSection,
    SamplerSection,
    StartingPictureSection,
    LoraSection,
    PromptSection,
):
    """All options except the prompt, with the names, defaults and bounds of the Cog inputs."""

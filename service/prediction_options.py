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
    """What should not be drawn, how many images, and from which seed."""

    negative_prompt: str = Field("", description="What should not be in the image")
    num_outputs: int = Field(1, ge=1, le=8, description="How many images; their seeds follow each other")
    seed: int | None = Field(None, ge=0, lt=2**64, description="Of the first image; by default random, and printed")


class LoraSection(Settings):
    """The LoRAs, and the base that they are put on."""

    lora: str | None = Field(
        None, description="LoRAs: files, https URLs, hub ids; several between commas or as a JSON list; none: the base"
    )
    replicate_weights: str | None = Field(None, description="Replicate's name for --weights")
    lora_scale: str = Field(
        "recommended",
        description="Strength of the LoRAs: 0 none, 1 as trained; one number for all, or a list; recommended: what "
        "each says of itself",
    )
    token_strength: str = Field("1", description="Strength of the trigger words: 0.8 for all, or TOK=0.8, ANNA=1.2")
    base_model: str | None = Field(None, description="By default the one that the LoRA was trained on")
    vae: str | None = Field(
        None,
        description="VAE in place of the base's own: a hub id such as madebyollin/sdxl-vae-fp16-fix, a folder or file; "
        "by default the one that the LoRA was trained with",
    )


class StartingPictureSection(Settings):
    """A picture that is changed, whole or in part."""

    image: Path | None = Field(None, description="A picture to start from")
    mask: Path | None = Field(None, description="White where the picture is drawn anew, black where it stays")
    strength: float = Field(0.8, ge=0, le=1, description="How much the picture is changed: 1 entirely")


class SamplerSection(Settings):
    """Size of the images, scheduler and guidance."""

    width: int | None = Field(None, ge=16, le=4096, description="In pixels; by default the picture's or the base's own")
    height: int | None = Field(
        None, ge=16, le=4096, description="In pixels; by default the picture's or the base's own"
    )
    aspect_ratio: RatioChoice = Field(
        "native", description="Width to height, instead of both; native: the picture's, or the base's own"
    )
    scheduler: SchedulerChoice = Field("base", description="base: the base model's own")
    num_inference_steps: int | None = Field(
        None, ge=1, le=500, description="Denoising steps; by default the base's own, such as 30"
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=50, description="How strictly the prompt is followed; by default the base's own, such as 6"
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Against overexposure by guidance: 0 none; 0.7 is usual for bases with zero terminal SNR",
    )
    clip_skip: int = Field(0, ge=0, le=11, description="Last layers of the CLIP encoders to leave out")
    go_fast: bool = Field(
        False, description="Products in fp8: faster on GPUs that have them, and pictures differ a little"
    )


class SecondModelSection(Settings):
    """A refiner, and a safety checker."""

    refiner: str | None = Field(
        None,
        description="SDXL: a second model for the last steps: a hub id such as "
        "stabilityai/stable-diffusion-xl-refiner-1.0, or a folder; by default none",
    )
    refiner_start: float = Field(
        0.8, ge=0, le=1, description="Fraction of the schedule that the base draws before the refiner"
    )
    safety_checker: str | None = Field(
        None,
        description="Withhold images that this checker flags: a hub id such as "
        "CompVis/stable-diffusion-safety-checker, or a folder; by default none is asked",
    )


class ControlNetSection(Settings):
    """A ControlNet, and what it is conditioned on."""

    controlnet: str | None = Field(
        None, description="A ControlNet beside the LoRAs: a file or folder, https URL or hub id; by default none"
    )
    control_image: Path | None = Field(
        None,
        description="The picture that the ControlNet is conditioned on, made already (edges, a scribble); transparent "
        "where one for inpainting shall make something up; a photograph for one that reads faces",
    )
    control_scale: float = Field(1.0, ge=0, le=2, description="Strength of the ControlNet: 0 none, 1 as trained")


class ImageFileSection(Settings):
    """The files that are written."""

    output_format: Literal["png", "webp", "jpg"] = Field("png", description="Of the files")
    output_quality: int = Field(90, ge=1, le=100, description="Of webp and jpg")


class PredictionOptions(
    ImageFileSection,
    ControlNetSection,
    SecondModelSection,
    SamplerSection,
    StartingPictureSection,
    LoraSection,
    PromptSection,
):
    """All options but the prompt itself, by the names of the Cog inputs and with their defaults and bounds."""

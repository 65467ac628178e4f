"""The base model and how it is loaded."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from settings.callers import Model, Open, Operator
from settings.record import Settings


class BaseModelSection(Settings):
    """The base model."""

    base_model: Model[str] = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        min_length=1,
        description="Base model: mini-sdxl or mini-flow (embedded), a hub id, a folder in diffusers' layout, or a "
        ".safetensors file",
    )
    base_config: Model[str | None] = Field(
        None,
        min_length=1,
        description="Folder or hub id with the configuration and tokenizers of a single-file base model; by default "
        "those of its family on the hub",
    )
    base_revision: Operator[str | None] = Field(
        None, min_length=1, description="Branch, tag or commit of a base model on the hub; by default its newest commit"
    )
    vae: Model[str | None] = Field(
        None,
        min_length=1,
        description="VAE that replaces the base model's, with the same latent space: a hub id such as "
        "madebyollin/sdxl-vae-fp16-fix, a folder, or a .safetensors file",
    )
    training_adapter: Operator[Path | None] = Field(
        None,
        description="For distilled base models (FLUX.1 schnell, FLUX.2 klein, Z-Image Turbo): LoRA file that is "
        "applied during training steps, but not in samples and the result, so that few-step samples keep their quality",
    )
    prediction_type: Open[Literal["auto", "epsilon", "v_prediction"]] = Field(
        "auto", description="Prediction type of the base model; auto: as in the checkpoint"
    )

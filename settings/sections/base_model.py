"""Which base model is trained on, and how it is loaded."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from settings.callers import Model, Open, Operator
from settings.record import Settings


class BaseModelSection(Settings):
    """The base."""

    base_model: Model[str] = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        min_length=1,
        description="Base to train on: mini-sdxl or mini-flow (embedded), a hub id, a folder in diffusers' "
        "layout, or a .safetensors file",
    )
    base_config: Model[str | None] = Field(
        None,
        min_length=1,
        description="Folder or hub id with the configuration and tokenizers of a single-file base; by default the "
        "family's own are taken from the hub",
    )
    base_revision: Operator[str | None] = Field(
        None, min_length=1, description="Branch, tag or commit of a base from the hub; by default its newest commit"
    )
    vae: Model[str | None] = Field(
        None,
        min_length=1,
        description="VAE in place of the base's own, with the same latent space: a hub id such as "
        "madebyollin/sdxl-vae-fp16-fix, a folder, or a .safetensors file",
    )
    training_adapter: Operator[Path | None] = Field(
        None,
        description="For distilled bases (FLUX.1 schnell, FLUX.2 klein, Z-Image Turbo): file of a LoRA that is on the "
        "base during training steps, and absent from samples and the result, so that few-step samples remain",
    )
    prediction_type: Open[Literal["auto", "epsilon", "v_prediction"]] = Field(
        "auto", description="What the base predicts; auto: as the checkpoint says"
    )

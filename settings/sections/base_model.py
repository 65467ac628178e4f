"""Which base model is trained on, and how it is loaded."""

from typing import Literal

from pydantic import Field

from settings.callers import Model, Open
from settings.record import Settings


class BaseModelSection(Settings):
    """The base."""

    base_model: Model[str] = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        min_length=1,
        description="Base to train on: mini-sdxl (embedded), a hub id, a folder in diffusers' layout, or a "
        ".safetensors file",
    )
    base_config: Model[str | None] = Field(
        None,
        min_length=1,
        description="Folder or hub id with the configuration and tokenizers of a single-file base; by default the "
        "family's own are taken from the hub",
    )
    prediction_type: Open[Literal["auto", "epsilon", "v_prediction"]] = Field(
        "auto", description="What the base predicts; auto: as the checkpoint says"
    )

"""A usage recipe, and the facts that it contains."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A usage recipe. `text` is to be copied, `note` explains it."""

    tool: str
    note: str
    text: str


@dataclass(frozen=True)
class Trained:
    """The facts of a training for the recipes.

    `pipeline`: diffusers' class. `encoders`: keys of the text encoders in embeddings.safetensors, in the pipeline's
    order; empty if the trigger words have no embeddings. `adapter`: its kind. `prompt` contains a trigger word.
    `revision`: of the base model on the hub. `vae`: replaces the base model's own. `restores`: whether the base model
    reconstructs images and cannot generate from a prompt. `control`: the kind of a ControlNet's conditioning image.
    `controlnet_in_comfyui`: whether ComfyUI recognises it. `text_encoders`: whether the file has layers of the text
    encoders.
    """

    base_model: str
    pipeline: str
    encoders: Sequence[str]
    adapter: str
    triggers: Sequence[str]
    prompt: str
    revision: str | None = None
    vae: str | None = None
    restores: bool = False
    control: str = "none"
    controlnet_in_comfyui: bool = True
    text_encoders: bool = False

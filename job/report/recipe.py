"""A usage recipe, and the facts that it contains."""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote


@dataclass(frozen=True)
class Recipe:
    """A usage recipe. `text` is to be copied, `note` explains it. `as_it_is`: whether the tool opens
    weights.safetensors itself."""

    tool: str
    note: str
    text: str
    as_it_is: bool = True


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


PLAIN_LORA = "plain-lora.safetensors"


def conversion(tool: str, trained: Trained) -> str:
    """Return a note on how to make the file PLAIN_LORA for a tool that does not support the kind of the adapter."""
    return (
        f"{tool} does not support {trained.adapter} files. Convert it to a plain LoRA first: python -m artifact "
        f"resize weights.safetensors {PLAIN_LORA} --rank 64 --base {quote(trained.base_model)}"
    )


def shell_text(text: str) -> str:
    """Quote a prompt for a shell, so that nothing in it is expanded or executed: it may be a caption of others."""
    return "'" + text.replace("'", "'\\''") + "'"

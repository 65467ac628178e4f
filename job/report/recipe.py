"""What a recipe is made from, and what it is."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """`text` may be copied as it is; `note` says what to do with it."""

    tool: str
    note: str
    text: str


@dataclass(frozen=True)
class Trained:
    """What the recipes say of a training.

    `pipeline`: diffusers' class. `encoders`: keys of the text encoders in embeddings.safetensors, in the pipeline's
    order; empty where the trigger words have no embeddings. `adapter`: its kind. `prompt` holds a trigger word.
    """

    base_model: str
    pipeline: str
    encoders: Sequence[str]
    adapter: str
    triggers: Sequence[str]
    prompt: str

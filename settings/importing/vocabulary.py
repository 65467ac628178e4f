"""Names that several trainers share, and their equivalents here."""

from collections.abc import Mapping
from typing import Any

from settings.importing.translation import Translation

OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw", "adamw8bit": "adamw_8bit", "pagedadamw8bit": "adamw_8bit", "prodigy": "prodigy", "lion": "lion",
    "adafactor": "adafactor", "came": "came", "adamwschedulefree": "adamw_schedule_free",
}  # fmt: skip
SCHEDULES: Mapping[str, str] = {
    "constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts", "polynomial": "polynomial",
}  # fmt: skip
SAVED: Mapping[str, str] = {
    "float": "fp32", "fp32": "fp32", "float32": "fp32", "fp16": "fp16", "float16": "fp16", "bf16": "bf16",
    "bfloat16": "bf16",
}  # fmt: skip
TRACKERS = ("tensorboard", "wandb")
EPOCHS = "it is in epochs; give it in steps"
SCHEDULER = "samples are generated with the base model's own scheduler"
CAPTION_FILES = "captions are read from .txt and .caption files"


def precision(translation: Translation, name: str, value: Any) -> None:
    """A rule for the precision of a training."""
    word = str(value).lower()
    if word in ("no", "false", "float32", "fp32", "float"):
        translation.values["mixed_precision"] = "no"
    elif word in ("bf16", "bfloat16"):
        translation.values["mixed_precision"] = "bf16"
    elif word in ("fp16", "float16"):
        translation.values["mixed_precision"] = "fp16"
    else:
        translation.note(name, f"{value} is left out: bf16 is used if the GPU supports it, otherwise fp32")


def trackers(translation: Translation, name: str, value: Any) -> None:
    """A rule for the trackers."""
    names = [str(each).lower() for each in (value if isinstance(value, list) else [value])]
    translation.values["trackers"] = [each for each in TRACKERS if each in names or "all" in names]
    if other := [each for each in names if each not in (*TRACKERS, "none", "all")]:
        translation.note(name, f"{', '.join(other)} is left out: supported are {' and '.join(TRACKERS)}")

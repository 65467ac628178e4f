"""Names that several trainers share, and their equivalents here."""

from collections.abc import Mapping
from typing import Any

from settings.importing.translation import Translation, number, whole
from settings.record import LONGEST_SHOWN, ConfigError

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
OPTIMIZER_ARGUMENTS = {"weight_decay": "weight_decay", "d_coef": "prodigy_d_coef"}
"""Arguments of optimizers that are settings here."""
NO_CLIPPING = 1e6
"""A norm that gradients do not reach."""
ALL_LINEAR_LAYERS = "attention+feed-forward"
"""Layers that kohya's scripts and ai-toolkit train if they are not told otherwise: all linear layers of the
transformer blocks (kohya's networks/lora.py, UNET_TARGET_REPLACE_MODULE)."""


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


def clipping(translation: Translation, name: str, value: Any) -> None:
    """A rule for the norm to which gradients are clipped; 0 means no clipping."""
    translation.values["max_grad_norm"] = NO_CLIPPING if number(name, value) == 0 else value


def workers(translation: Translation, name: str, value: Any) -> None:
    """A rule for the number of workers; 0 means the main process, which is no number of threads here."""
    if str(value) != "0":
        translation.values["num_workers"] = value


def optimizer_arguments(translation: Translation, name: str, value: Any) -> None:
    """A rule for the optimizer's arguments: a mapping, or texts such as weight_decay=0.1."""
    given = value if isinstance(value, dict) else dict(_pair(name, each) for each in _texts(value))
    for argument, each in given.items():
        if (setting := OPTIMIZER_ARGUMENTS.get(str(argument))) is not None:
            translation.values[setting] = whole(number(f"{name}: {argument}", each))
        else:
            translation.note(name, f"{argument} is left out: supported are {' and '.join(OPTIMIZER_ARGUMENTS)}")


def without_idle_fields(translation: Translation) -> None:
    """Remove settings that have no effect in the other trainer either, and would be an error here: tags that are kept
    first, where tags are not shuffled; a discount without levels of noise; cycles or a power of another schedule.

    The trainers keep no tag in its place by default, here it is one.
    """
    values = translation.values
    if values.get("shuffle_tags"):
        values.setdefault("keep_first_tags", 0)
    else:
        values.pop("keep_first_tags", None)
    if str(values.get("multires_noise_iterations", 0)) == "0":
        values.pop("multires_noise_discount", None)
    schedule = values.get("lr_scheduler")
    for name, of in (("lr_num_cycles", "cosine_with_restarts"), ("lr_power", "polynomial")):
        if schedule != of:
            values.pop(name, None)


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else str(value).split()


def _pair(name: str, text: str) -> tuple[str, str]:
    argument, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"{name}: {text[:LONGEST_SHOWN]!r} is not an argument such as weight_decay=0.1")
    return argument.strip(), value.strip()

"""Settings as they may leave the machine: in metadata, reports, model cards and trackers. No path of its disk."""

import os
import re
from pathlib import Path
from typing import Any

from settings.record import Settings

PATHS = ("preservation_data", "face_detector_model", "compile_cache", "evaluation_face_model")
HUB_IDS_OR_PATHS = (
    "base_model", "base_config", "captioner", "mask_model", "upscaler", "evaluation_clip", "evaluation_dino"
)  # fmt: skip
ABSOLUTE_PATH = re.compile(r"(?<![\w/:.])~?/(?:[^\s/'\"(),;:]+/)*([^\s/'\"(),;:]+)")


def public_settings(config: Settings, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """The settings as JSON has them, paths by their last part alone."""
    values = config.model_dump(mode="json", exclude_defaults=exclude_defaults)
    for name in (*PATHS, *HUB_IDS_OR_PATHS):
        if values.get(name) is not None:
            values[name] = public_name(values[name]) if name in HUB_IDS_OR_PATHS else Path(values[name]).name
    return values


def public_name(model: str) -> str:
    """A hub id or the name of an embedded model as it is; of a folder or file on this disk the last part alone."""
    path = os.path.expanduser(model)
    on_disk = os.path.isabs(path) or model.startswith((".", "~")) or os.path.exists(path)
    return Path(os.path.abspath(path)).name if on_disk else model


def hide_paths(text: str) -> str:
    """The text with the last part alone of each absolute path in it, as the messages of libraries have them."""
    return ABSOLUTE_PATH.sub(r"\1", text)

"""Where a base model comes from: the embedded one, a folder, a single file, or a hub id. Nothing is loaded here."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from families.errors import BaseModelError

EMBEDDED_BASE = "mini-sdxl"
EMBEDDED_BASE_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "mini-sdxl"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class BaseModelSource:
    """`name` is what the user wrote, `location` what the loader opens: a folder, a file, or a hub id."""

    name: str
    kind: Literal["folder", "file", "hub"]
    location: str


def find_base_model(base_model: str) -> BaseModelSource:
    """Turn the text of `base_model` into a source.

    Raises BaseModelError when it is a path that does not exist, a file that is not safetensors, or a folder that
    holds no diffusers pipeline.
    """
    if base_model == EMBEDDED_BASE:
        return BaseModelSource(base_model, "folder", str(EMBEDDED_BASE_FOLDER))
    path = Path(base_model).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise BaseModelError(
                f"base_model: the folder {base_model} holds no model_index.json. Give a folder in diffusers' layout, "
                "or the single .safetensors file inside it."
            )
        return BaseModelSource(base_model, "folder", str(path))
    if path.is_file():
        if path.suffix != ".safetensors":
            raise BaseModelError(
                f"base_model: {base_model} is not a .safetensors file. Pickled checkpoints (.ckpt, .pt, .bin) can run "
                "code when they are opened, so they are refused: convert the file to safetensors."
            )
        return BaseModelSource(base_model, "file", str(path))
    if HUB_ID.fullmatch(base_model) and path.suffix != ".safetensors":
        return BaseModelSource(base_model, "hub", base_model)
    raise BaseModelError(
        f"base_model: {base_model!r} is neither '{EMBEDDED_BASE}', nor an existing folder or .safetensors file, nor a "
        "hub id such as stabilityai/stable-diffusion-xl-base-1.0. Check the spelling of the path."
    )


def pipeline_class_name(source: BaseModelSource) -> str | None:
    """The pipeline class that a local folder's model_index.json names; None for sources that are not folders."""
    if source.kind != "folder":
        return None
    try:
        index = json.loads((Path(source.location) / "model_index.json").read_text(encoding="utf-8"))
        return str(index["_class_name"])
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise BaseModelError(f"base_model: cannot read {source.location}/model_index.json: {error}") from error

"""Locates a base model: the embedded one, a folder, a single file, or a hub id. No weights are loaded here."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

from families.errors import BaseModelError
from fetching.errors import DownloadError
from fetching.hub_connection import require_hub

INDEX = "model_index.json"
LONGEST_NAME = 500
"""Largest number of characters of a name in error messages."""

EMBEDDED_BASE = "mini-sdxl"
ASSETS = Path(__file__).resolve().parents[2] / "assets"
EMBEDDED_BASE_FOLDER = ASSETS / EMBEDDED_BASE
EMBEDDED_BASES: Mapping[str, Path] = {name: ASSETS / name for name in (EMBEDDED_BASE, "mini-flow")}
"""Small bases in the repository, by name. All generate the same kinds of images, so they share one evaluator."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class BaseModelSource:
    """A located base. `name`: as the user wrote it. `location`: what the loader opens: a folder, a file, or a hub id.

    `input_name`: the name of the input, for errors. `revision`: a branch, tag or commit of a hub model; None: its
    newest commit.
    """

    name: str
    kind: Literal["folder", "file", "hub"]
    location: str
    input_name: str = "base_model"
    revision: str | None = None

    @property
    def pinned(self) -> dict[str, str]:
        """The revision as an argument of libraries' loaders; empty without one."""
        return {} if self.revision is None else {"revision": self.revision}


def find_base_model(base_model: str, input_name: str = "base_model") -> BaseModelSource:
    """Locate `base_model`, the value of the input `input_name`.

    Raises BaseModelError for a path that does not exist, a file that is not safetensors, or a folder without a
    diffusers pipeline.
    """
    if base_model in EMBEDDED_BASES:
        return BaseModelSource(base_model, "folder", str(EMBEDDED_BASES[base_model]), input_name)
    path = Path(os.path.expanduser(base_model))
    if os.path.isdir(path):  # Path.is_dir raises an error for names that are too long
        if not (path / INDEX).is_file():
            raise BaseModelError(
                f"{input_name}: the folder {base_model} does not contain model_index.json. Give a folder in diffusers' "
                "layout, "
                "or the single .safetensors file inside it."
            )
        return BaseModelSource(base_model, "folder", str(path), input_name)
    if os.path.isfile(path):
        if path.suffix != ".safetensors":
            raise BaseModelError(
                f"{input_name}: {base_model} is not a .safetensors file. Pickled checkpoints (.ckpt, .pt, .bin) can "
                "run code when they are opened, so they are refused. Convert one that you trust: diffusers' "
                "StableDiffusionPipeline (or StableDiffusionXLPipeline) .from_single_file(FILE).save_pretrained(FOLDER)"
                ", and give the folder."
            )
        return BaseModelSource(base_model, "file", str(path), input_name)
    if HUB_ID.fullmatch(base_model) and path.suffix != ".safetensors":
        return BaseModelSource(base_model, "hub", base_model, input_name)
    raise BaseModelError(
        f"{input_name}: {base_model[:LONGEST_NAME]!r} is neither an embedded base model ({', '.join(EMBEDDED_BASES)}), "
        "nor an existing folder or .safetensors file, nor a hub id such as stabilityai/stable-diffusion-xl-base-1.0. "
        "Check "
        "the spelling of the path."
    )


def find_configuration(base_config: str) -> BaseModelSource:
    """Locate `base_config`. Raises BaseModelError when it is neither a folder nor a hub id."""
    path = Path(os.path.expanduser(base_config))
    if os.path.isfile(path / INDEX):
        return BaseModelSource(base_config, "folder", str(path))
    if HUB_ID.fullmatch(base_config) and not os.path.exists(path):
        return BaseModelSource(base_config, "hub", base_config)
    raise BaseModelError(
        f"base_config: {base_config[:LONGEST_NAME]!r} is neither a folder that contains {INDEX} nor a hub id such as "
        "stabilityai/stable-diffusion-xl-base-1.0"
    )


def pipeline_class_name(source: BaseModelSource) -> str:
    """Return the pipeline class in the index of a folder or hub model. Raises BaseModelError without one."""
    index = read_index(source)
    if not isinstance(index.get("_class_name"), str):
        raise BaseModelError(f"{source.input_name}: {INDEX} of {source.name} does not name a pipeline (_class_name)")
    return str(index["_class_name"])


def read_index(source: BaseModelSource) -> dict[str, Any]:
    """Read model_index.json of a folder or hub model. Raises BaseModelError when it cannot be read."""
    path = index_file(source)
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{source.input_name}: cannot read {INDEX} of {source.name}: {error}") from error
    return index if isinstance(index, dict) else {}


def index_file(source: BaseModelSource) -> Path:
    """Return the path of model_index.json; that of a hub model is downloaded into a folder named by its commit. Raises
    BaseModelError."""
    return Path(source.location) / INDEX if source.kind == "folder" else _fetch_index(source)


def _fetch_index(source: BaseModelSource) -> Path:
    try:
        require_hub(source.location, INDEX, source.revision)
        return Path(hf_hub_download(source.location, INDEX, revision=source.revision))
    except DownloadError as error:
        raise BaseModelError(
            f"{source.input_name}: {error}. To try the program without a network, use {EMBEDDED_BASE}, which is "
            "embedded."
        ) from error
    except RevisionNotFoundError as error:
        raise BaseModelError(
            f"base_revision: {source.name} on the hub has no branch, tag or commit {source.revision!r}"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise BaseModelError(
            f"{source.input_name}: {source.name} on the hub has no {INDEX}, so it is not a model in diffusers' layout. "
            "If it contains a single .safetensors checkpoint, download it and give its path."
        ) from error
    except (OSError, ValueError) as error:  # no network, no such repository, gated, an invalid name
        raise BaseModelError(
            f"{source.input_name}: cannot load {source.name!r} from the hub: {type(error).__name__}: "
            f"{' '.join(str(error).split())} Check the spelling, the network, and for gated models the HF_TOKEN in the "
            "environment."
        ) from error

"""Finds and reads LoRAs: files, URLs, uploads, repositories on the hub."""

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from fetching.cache import DownloadCache
from fetching.download import download, is_url, shown
from fetching.hub import find_on_hub, is_hub_reference
from fetching.rules import FetchRules
from sampler.local_base import read_local

MAX_LORAS = 8
MAX_SCALE = 10.0
RECOMMENDED = "recommended"
NAMELESS = "TOK"
"""The trigger word of uploaded embeddings. For files it is the file name, which an upload does not have."""


@dataclass(frozen=True)
class ScaledArtifact:
    """A LoRA and its scale: 0 none, 1 as trained. `name`: its source, without secrets."""

    artifact: Artifact
    scale: float
    name: str


def read_weights(
    weights: str | None, lora_scale: str | float, *, local_files: bool, rules: FetchRules | None = None
) -> list[ScaledArtifact]:
    """Read all LoRAs in the list `weights`, each with its scale. `local_files`: whether local paths may be opened.

    `rules`: for downloads; None: those of the environment. Raises ArtifactError or DownloadError, which name the LoRA.
    """
    locations = parse_list(weights or "", local_files=local_files)
    if len(locations) > MAX_LORAS:
        raise ArtifactError(
            f"{_input(local_files)}: {len(locations)} LoRAs exceed the limit of {MAX_LORAS}; leave some out"
        )
    scales = parse_scales(lora_scale, len(locations))
    found = []
    for location, scale in zip(locations, scales, strict=True):
        artifact = read_one(location, local_files=local_files, rules=rules)
        found.append(ScaledArtifact(artifact, recommended(artifact) if scale is None else scale, _shown(location)))
    return found


def _input(local_files: bool) -> str:
    """The name of the list in messages: only the server's callers, whose input is named `lora`, may not give paths."""
    return "weights" if local_files else "lora"


def recommended(artifact: Artifact) -> float:
    """Return the scale that the artifact's own evaluation recommends; 1 for a file without one."""
    return artifact.description.recommended_scale if artifact.description else 1.0


def parse_list(text: str, *, local_files: bool) -> list[str]:
    """Split `text` at commas or line ends, or parse it as a JSON list. Raises ArtifactError.

    A comma in a data URI or in the path of an existing file does not separate entries.
    """
    text = text.strip()
    if text.startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(
                f"{_input(local_files)}: starts like a JSON list, but cannot be parsed ({error})"
            ) from None
        if not all(isinstance(entry, str) and entry.strip() for entry in entries):
            raise ArtifactError(f"{_input(local_files)}: must be a JSON list of texts")
        return [entry.strip() for entry in entries]
    if local_files and "," in text and Path(text).is_file():
        return [text]
    entries = [entry.strip() for entry in re.split(r"\n|(?<!;base64),", text)]
    return [entry for entry in entries if entry]


def parse_scales(lora_scale: str | float, count: int) -> list[float | None]:
    """Return a scale for each of `count` LoRAs, from one number for all or a list. Raises ArtifactError.

    None stands for "recommended", the scale that the LoRA's description recommends.
    """
    parts = str(lora_scale).strip().strip("[]").replace("\n", ",").split(",")
    try:
        scales = [None if part.strip() == RECOMMENDED else float(part) for part in parts]
    except ValueError:
        raise ArtifactError(
            f"lora_scale: {str(lora_scale)[:60]!r} is neither a number, a list of numbers, nor {RECOMMENDED}"
        ) from None
    if not all(scale is None or abs(scale) <= MAX_SCALE for scale in scales):
        raise ArtifactError(f"lora_scale: must be between -{MAX_SCALE:g} and {MAX_SCALE:g}")
    if len(scales) > 1 and len(scales) != count:
        raise ArtifactError(f"lora_scale: {len(scales)} scales for {count} LoRAs; give one for all, or one for each")
    return scales if len(scales) == count else scales * count


def read_one(location: str, *, local_files: bool, rules: FetchRules | None = None) -> Artifact:
    """Read the LoRA at a path, URL, or hub id. Raises ArtifactError or DownloadError."""
    if location.startswith("data:"):
        with tempfile.TemporaryDirectory() as folder:
            return Artifact.read(download(location, Path(folder) / "weights.safetensors").path, word=NAMELESS)
    if is_url(location):
        rules = rules or FetchRules.from_environment()
        with DownloadCache.from_environment().using(
            rules.cache_key(location), lambda folder: download(location, folder / "download", rules=rules)
        ) as path:
            return Artifact.read(path)
    path = Path(os.path.expanduser(location))  # Path.expanduser raises an error for an unknown user
    if local_files and os.path.exists(path):
        return read_local(path)
    if is_hub_reference(location):
        found = find_on_hub(location, rules or FetchRules.from_environment(), local_files=local_files)
        with DownloadCache.from_environment().using(found.key, found.fetch) as path:
            return Artifact.read(path)
    if local_files:
        raise ArtifactError(f"weights: {location} does not exist, and is neither a URL nor a hub id")
    raise ArtifactError(f"lora: {location[:100]!r} is neither an upload, nor a URL, nor a hub id")


def _shown(location: str) -> str:
    if is_url(location):
        return shown(location)
    return location if is_hub_reference(location) else Path(location).name


def rescaled(loras: Sequence[ScaledArtifact], lora_scale: str | float) -> list[ScaledArtifact]:
    """Return the LoRAs with the scales in `lora_scale`. Raises ArtifactError."""
    scales = parse_scales(lora_scale, len(loras))
    return [
        replace(lora, scale=recommended(lora.artifact) if scale is None else scale)
        for lora, scale in zip(loras, scales, strict=True)
    ]

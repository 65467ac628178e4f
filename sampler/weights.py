"""Reads the LoRA that a server was started with, or that a request names."""

import os
import tempfile
from pathlib import Path

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from fetching.download import download, is_url


def read_trusted_weights(location: str) -> Artifact:
    """A path or URL that the operator gave. Raises ArtifactError or DownloadError."""
    if is_url(location):
        return _fetch(location)
    path = Path(location)
    if not path.is_file():
        raise ArtifactError(f"weights: {location} does not exist")
    return Artifact.read(path)


def read_request_weights(lora: object, replicate_weights: str | None) -> Artifact | None:
    """A file that was uploaded with a request, or a URL in it; None when it names neither.

    Raises ArtifactError or DownloadError; a path on the server's own disk is refused.
    """
    if lora is not None and replicate_weights:
        raise ArtifactError("lora and replicate_weights are two names for one thing: give one of them")
    if isinstance(lora, os.PathLike):
        return Artifact.read(Path(lora))
    location = lora or replicate_weights
    if location is None or location == "":
        return None
    if not is_url(str(location)):
        raise ArtifactError(f"lora: {str(location)[:100]!r} is neither an uploaded file nor a URL")
    return _fetch(str(location))


def _fetch(url: str) -> Artifact:
    with tempfile.TemporaryDirectory() as folder:
        return Artifact.read(download(url, Path(folder) / "weights.safetensors").path)

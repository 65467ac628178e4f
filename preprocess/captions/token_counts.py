"""Counts the tokens of captions with the tokenizers of a base model, without loading the base model."""

from pathlib import Path
from typing import Any

from fetching.errors import DownloadError
from fetching.hub_connection import require_hub
from preprocess.captions.labels import TokenCounter
from preprocess.errors import DatasetError

SUBFOLDERS = ("tokenizer", "tokenizer_2")
TOKENIZER_FILE = "tokenizer_config.json"


def token_counter(location: str) -> TokenCounter:
    """Return a function that counts tokens by the tokenizer that needs the most, including start and end of text.

    `location`: folder or hub id of a pipeline in diffusers' layout, or of a tokenizer. Raises DatasetError.
    """
    tokenizers = _load(location)
    return lambda caption: max(len(tokenizer(caption).input_ids) for tokenizer in tokenizers)


def _load(location: str) -> list[Any]:
    from transformers import AutoTokenizer

    try:
        require_hub(location, f"{SUBFOLDERS[0]}/{TOKENIZER_FILE}")
        subfolders = [name for name in SUBFOLDERS if _is_there(location, name)]
        if not subfolders:
            return [AutoTokenizer.from_pretrained(location)]
        return [AutoTokenizer.from_pretrained(location, subfolder=name) for name in subfolders]
    except DownloadError as error:
        raise DatasetError(f"tokenizer: {error}") from error
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"tokenizer {location}: cannot be loaded ({reason}). Check the name and the network"
        ) from error


def _is_there(location: str, subfolder: str) -> bool:
    """Whether a folder or hub model has the subfolder with a tokenizer: many base models have only one. Raises
    OSError."""
    from transformers.utils import cached_file

    if (folder := Path(location)).is_dir():
        return (folder / subfolder).is_dir()
    options = {"subfolder": subfolder, "_raise_exceptions_for_missing_entries": False}
    return cached_file(location, TOKENIZER_FILE, **options) is not None

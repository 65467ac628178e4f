"""Counts the tokens of captions with the tokenizers of a base model, without loading the base model."""

from pathlib import Path
from typing import Any

from preprocess.captions.labels import TokenCounter
from preprocess.errors import DatasetError

SUBFOLDERS = ("tokenizer", "tokenizer_2")


def token_counter(location: str) -> TokenCounter:
    """Return a function that counts tokens by the tokenizer that needs the most, including start and end of text.

    `location`: folder or hub id of a pipeline in diffusers' layout, or of a tokenizer. Raises DatasetError.
    """
    tokenizers = _load(location)
    return lambda caption: max(len(tokenizer(caption).input_ids) for tokenizer in tokenizers)


def _load(location: str) -> list[Any]:
    from transformers import AutoTokenizer

    folder = Path(location)
    subfolders = [name for name in SUBFOLDERS if (folder / name).is_dir()] if folder.is_dir() else list(SUBFOLDERS)
    try:
        if folder.is_dir() and not subfolders:
            return [AutoTokenizer.from_pretrained(location)]
        return [AutoTokenizer.from_pretrained(location, subfolder=name) for name in subfolders]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"tokenizer {location}: cannot be loaded ({reason}). Check the name and the network"
        ) from error

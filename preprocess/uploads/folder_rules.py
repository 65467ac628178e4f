"""Reads repeats and captions from folder names: kohya's "10_a photo of a dog", EveryDream's multiply.txt."""

import re
from collections.abc import Iterator
from pathlib import Path

from preprocess.errors import DatasetError
from preprocess.uploads.intake import FoundFile
from preprocess.uploads.text_files import one_line, read_text

MULTIPLY_FILE = "multiply.txt"
MOST_REPEATS = 1000
_KOHYA_FOLDER = re.compile(r"(\d+)_(.+)", re.DOTALL)


def folder_caption(image: FoundFile) -> str | None:
    """Return the words of the innermost folder called "10_words"; None without one."""
    match = next(_kohya_folders(image), None)
    return one_line(match[2]) or None if match else None


def folder_repeats(image: FoundFile) -> int:
    """Return the repeats per epoch: the product of the numbers in folder names and multiply.txt files.

    Raises DatasetError for a number out of range.
    """
    repeats = 1
    for match in _kohya_folders(image):
        repeats *= _sensible(match[1], f"folder {match[0]!r}")
    for folder in _folders(image):
        if (folder / MULTIPLY_FILE).is_file():
            repeats *= _sensible(read_text(folder / MULTIPLY_FILE).strip(), f"{folder.name}/{MULTIPLY_FILE}")
    return _sensible(str(repeats), image.name)


def _kohya_folders(image: FoundFile) -> Iterator[re.Match[str]]:
    for folder in _folders(image):
        if folder != image.root and (match := _KOHYA_FOLDER.fullmatch(folder.name)):
            yield match


def _folders(image: FoundFile) -> list[Path]:
    """Return the folders from the image's own up to the root of the data."""
    folders = [image.path.parent]
    while folders[-1] != image.root:
        folders.append(folders[-1].parent)
    return folders


def _sensible(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_REPEATS:
        raise DatasetError(f"{where}: repeats of {text!r}; a whole number from 1 to {MOST_REPEATS} is expected")
    return int(text)

"""Reads repeats and captions from folder names: kohya's "10_a photo of a dog", EveryDream's multiply.txt."""

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import lcm
from pathlib import Path

from preprocess.errors import DatasetError
from preprocess.uploads.intake import FoundFile
from preprocess.uploads.text_files import one_line, read_text

MULTIPLY_FILE = "multiply.txt"
MOST_REPEATS = 1000
MOST_PARTS = 100
"""Largest factor of all repeats that makes fractions whole numbers."""
RENAME = "If it is not meant as repeats, as in a date, rename the folder so that it does not begin with a number and _."
_WHOLE, _FRACTION = re.compile(r"[0-9]{1,9}"), re.compile(r"[0-9]{1,4}(\.[0-9]{1,6}|/[0-9]{1,3})?|\.[0-9]{1,6}")
_KOHYA_FOLDER = re.compile(r"(\d+)_(.+)", re.DOTALL)


def folder_caption(image: FoundFile) -> str | None:
    """Return the words of the innermost folder called "10_words"; None without one."""
    match = next(_kohya_folders(image), None)
    return one_line(match[2]) or None if match else None


def folder_repeats(image: FoundFile) -> Fraction:
    """Return the repeats per epoch: the product of the numbers in folder names and multiply.txt files, which may be
    fractions (0.5, 1/3).

    Raises DatasetError for a number out of range.
    """
    repeats = Fraction(1)
    for match in _kohya_folders(image):
        repeats *= _sensible(match[1], f"folder {match[0]!r}", remedy=RENAME)
    for folder in _folders(image):
        if (folder / MULTIPLY_FILE).is_file():
            text = read_text(folder / MULTIPLY_FILE).strip()
            repeats *= _sensible(text, f"{folder.name}/{MULTIPLY_FILE}", fractions=True)
    if repeats > MOST_REPEATS:
        raise DatasetError(f"{image.name}: repeats of {repeats}; at most {MOST_REPEATS} are allowed")
    return repeats


def whole_repeats_scale(repeats: Iterable[Fraction]) -> int:
    """Return the smallest number that makes all of them whole. Raises DatasetError where it is above MOST_PARTS."""
    scale = lcm(1, *{each.denominator for each in repeats})
    if scale > MOST_PARTS:
        raise DatasetError(
            f"{MULTIPLY_FILE}: its fractions would make an epoch {scale:,} times as long; choose simpler ones, "
            "such as 0.25 or 1.5"
        )
    return scale


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


def _sensible(text: str, where: str, *, fractions: bool = False, remedy: str = "Correct the number.") -> Fraction:
    form = _FRACTION if fractions else _WHOLE
    if form.fullmatch(text) and not text.endswith("/0"):
        number = Fraction(text)
        if 0 < number <= MOST_REPEATS:
            return number
    kind = "a number above 0 and up to" if fractions else "a whole number from 1 to"
    raise DatasetError(f"{where}: repeats of {text!r}; {kind} {MOST_REPEATS} is expected. {remedy}")

"""Reads text files beside images, in UTF-8, UTF-16 or Windows-1252."""

import re
import unicodedata
from pathlib import Path

from preprocess.errors import DatasetError


def read_text(path: Path) -> str:
    """Read UTF-8 (with or without BOM), UTF-16 with BOM, else Windows-1252. Returns NFC text without NUL characters.

    Raises DatasetError when the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path.name}: cannot be read ({error.strerror}). Grant read permission.") from error
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return unicodedata.normalize("NFC", text.replace("\0", ""))


def one_line(text: str) -> str:
    """Return the text on one line, with single spaces and composed accents, as in settings: file names of macOS, tables
    and escapes in JSON may have decomposed ones."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def name_key(name: str) -> str:
    """Normalise a file name for comparison: "./A\\b.PNG" equals "a/b.png"; composed and decomposed umlauts are
    equal."""
    parts = [part for part in name.replace("\\", "/").strip().split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()

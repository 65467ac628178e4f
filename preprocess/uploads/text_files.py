"""Reads text files beside images, in UTF-8, UTF-16 or Windows-1252."""

import re
import unicodedata
from pathlib import Path

from preprocess.errors import DatasetError


def read_text(path: Path) -> str:
    """UTF-8 (with or without BOM), UTF-16 with BOM, else Windows-1252; in NFC, without NUL.

    Raises DatasetError when the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path.name}: cannot be read ({error.strerror}). Give the right to read it.") from error
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return unicodedata.normalize("NFC", text.replace("\0", ""))


def one_line(text: str) -> str:
    """Single spaces, no line breaks."""
    return re.sub(r"\s+", " ", text).strip()


def name_key(name: str) -> str:
    """What makes two file names the same: "./A\\b.PNG" and "a/b.png", composed and decomposed umlauts."""
    parts = [part for part in name.replace("\\", "/").strip().split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()

"""Finds the caption that belongs to each image: by its name, never by its position.

Order of precedence: metadata.jsonl, metadata.csv, a text file beside the image, caption.csv or captions.csv,
the template of the concept mode.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from preprocess.errors import DatasetError

SIDECAR_SUFFIXES = (".txt", ".caption")
CAPTION_TABLES = ("metadata.jsonl", "metadata.csv", "caption.csv", "captions.csv")
FILE_COLUMNS = ("file_name", "image_file", "file", "filename", "image", "path")
TEXT_COLUMNS = ("text", "caption", "prompt", "description")
TEMPLATES = {
    "face": "a photo of {trigger}",
    "object": "a photo of {trigger}",
    "style": "a picture in the style of {trigger}",
}


@dataclass(frozen=True)
class Caption:
    """A caption and where it came from: the name of a file, or "template"."""

    text: str
    source: str


@dataclass(frozen=True)
class CaptionFile:
    """A table of captions. `rows` maps the names as written in the table to captions."""

    path: Path
    rows: Mapping[str, str]


def read_text(path: Path) -> str:
    """A small text file: UTF-8 (with or without BOM), else Windows-1252; NFC, without NUL."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return unicodedata.normalize("NFC", text.replace("\0", ""))


def clean(text: str) -> str:
    """One line, single spaces."""
    return re.sub(r"\s+", " ", text).strip()


def caption_tables(folder: Path) -> list[CaptionFile]:
    """Every caption table in the tree, in order of precedence.

    Raises DatasetError for a table that cannot be understood: a caption file is never passed over in silence.
    """
    found = sorted(path for path in folder.rglob("*") if path.name.lower() in CAPTION_TABLES and path.is_file())
    found.sort(key=lambda path: CAPTION_TABLES.index(path.name.lower()))
    return [CaptionFile(path, dict(_rows(path))) for path in found]


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    rows = _json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
    for name, text in rows:
        if name:
            yield name.replace("\\", "/"), clean(text)


def _json_rows(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            where = f"{path.name}, line {number}"
            raise DatasetError(f"{where}: not JSON ({error}). One object a line is expected.") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path.name}, line {number}: a JSON object with file_name and text is expected")
        name, text = _column(row, FILE_COLUMNS), _column(row, TEXT_COLUMNS)
        if name is None or text is None:
            raise DatasetError(
                f"{path.name}, line {number}: needs a file ({', '.join(FILE_COLUMNS)}) and a text "
                f"({', '.join(TEXT_COLUMNS)}); found {', '.join(map(str, row))}"
            )
        yield str(row[name]), str(row[text])


def _csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    rows = [row for row in csv.reader(io.StringIO(read_text(path)), skipinitialspace=True) if any(map(str.strip, row))]
    if not rows:
        return
    header = {cell.strip().lower(): index for index, cell in enumerate(rows[0])}
    name, text = _column(header, FILE_COLUMNS), _column(header, TEXT_COLUMNS)
    if name is not None and text is not None:
        for row in rows[1:]:
            yield (
                row[header[name]].strip() if header[name] < len(row) else "",
                row[header[text]] if header[text] < len(row) else "",
            )
    elif name is not None or text is not None:
        raise DatasetError(
            f"{path.name}: the header {rows[0]} names only one of file ({', '.join(FILE_COLUMNS)}) and "
            f"text ({', '.join(TEXT_COLUMNS)})"
        )
    else:
        for row in rows:
            if len(row) < 2:
                raise DatasetError(f"{path.name}: {row} is no pair of file name and caption")
            yield row[0].strip(), ", ".join(cell.strip() for cell in row[1:])


def _column(row: Iterable[str], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in row), None)


def sidecar(image: Path) -> Caption | None:
    """The text file beside an image: same name, .txt or .caption."""
    for suffix in SIDECAR_SUFFIXES:
        for candidate in (image.with_suffix(suffix), image.with_name(image.name + suffix)):
            if candidate.is_file():
                return Caption(clean(read_text(candidate)), candidate.name)
    return None


def table_caption(image: Path, tables: Iterable[CaptionFile]) -> Caption | None:
    """The row that names this image by its path relative to the table, or by its bare file name."""
    for table in tables:
        if not image.is_relative_to(table.path.parent):
            continue
        relative = image.relative_to(table.path.parent).as_posix()
        for name, text in table.rows.items():
            if name in (relative, f"./{relative}") or (name == image.name and "/" not in name) or name == image.stem:
                return Caption(text, table.path.name)
    return None


def find_caption(image: Path, tables: Iterable[CaptionFile]) -> Caption | None:
    """The caption of one image, by the precedence above; None when it has none of its own."""
    tables = list(tables)
    metadata = [table for table in tables if table.path.stem.lower() == "metadata"]
    plain = [table for table in tables if table.path.stem.lower() != "metadata"]
    return table_caption(image, metadata) or sidecar(image) or table_caption(image, plain)


def template_caption(concept_mode: str, trigger_word: str, class_word: str | None) -> Caption:
    """What an image is called that came without a caption: "a photo of TOK", or "a photo of TOK dog"."""
    words = f"{trigger_word} {class_word}" if class_word and concept_mode != "style" else trigger_word
    return Caption(TEMPLATES[concept_mode].format(trigger=words), "template")


def has_trigger(text: str, trigger_word: str) -> bool:
    """Whether the trigger stands in the text as a whole word."""
    return re.search(rf"(?<!\w){re.escape(trigger_word)}(?!\w)", text) is not None


def with_trigger(text: str, trigger_word: str, class_word: str | None, concept_mode: str) -> str:
    """The caption with the trigger in it, always at the same place.

    Present already: unchanged. A class word in it: "a dog on grass" → "a TOK dog on grass". Else "…, in the style of
    TOK" for a style and "TOK, …" for the rest.
    """
    if has_trigger(text, trigger_word):
        return text
    if not text:
        return template_caption(concept_mode, trigger_word, class_word).text
    if concept_mode == "style":
        return f"{text}, in the style of {trigger_word}"
    if class_word and (match := re.search(rf"(?<!\w){re.escape(class_word)}(?!\w)", text, re.IGNORECASE)):
        return f"{text[: match.start()]}{trigger_word} {text[match.start() :]}"
    return f"{trigger_word}, {text}"

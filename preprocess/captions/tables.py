"""Tables of captions and metadata: metadata.jsonl, .csv, .tsv and .parquet, captions.csv, .tsv and .json."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.captions.columns import Columns, captions_in, first_column, missing_column, require_other_use, texts_of
from preprocess.captions.csv_rows import csv_records
from preprocess.captions.json_text import json_lines, parse_json
from preprocess.errors import DatasetError
from preprocess.sources.parquet_rows import parquet_records
from preprocess.uploads.text_files import name_key, read_text

METADATA_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
CSV_TABLES = ("caption.csv", "captions.csv", "caption.tsv", "captions.tsv")
JSON_TABLES = ("caption.json", "captions.json")
CAPTION_TABLES = (*METADATA_TABLES, *CSV_TABLES, *JSON_TABLES)


@dataclass(frozen=True)
class Row:
    """A row of a table. `file`: as written in the table. `captions`: all captions of the image; () for an empty column,
    None without a caption column. `metadata`: all cells of the row."""

    file: str
    captions: tuple[str, ...] | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class CaptionTable:
    """A table. `rows` by `name_key` of their file names."""

    path: Path
    rows: Mapping[str, Row]


def read_table(path: Path, columns: Columns) -> CaptionTable:
    """Read a table of captions. Raises DatasetError for a malformed one: caption files are never silently ignored."""
    rows: dict[str, Row] = {}
    for row in READERS[path.suffix.lower()](path, columns):
        if not row.file:
            continue
        known = rows.setdefault(name_key(row.file), row)
        if known.captions != row.captions:
            one, other = (" | ".join(each.captions or ()) for each in (known, row))
            raise DatasetError(f"{path.name}: has two captions for {row.file}: {one!r} and {other!r}. Keep one.")
    return CaptionTable(path, rows)


def _jsonl_rows(path: Path, columns: Columns) -> Iterator[Row]:
    for where, record in json_lines(path):
        yield _record_row(record, columns, where)


def _csv_rows(path: Path, columns: Columns) -> Iterator[Row]:
    for where, record in csv_records(path, columns):
        yield _record_row(record, columns, where)


def _parquet_rows(path: Path, columns: Columns) -> Iterator[Row]:
    for where, record in parquet_records(path):
        yield _record_row(record, columns, where)


def _json_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Read a mapping of file names to captions (or to objects with a caption), or a list of objects."""
    content = parse_json(read_text(path), path.name)
    if isinstance(content, list):
        for number, record in enumerate(content, 1):
            yield _record_row(record, columns, f"{path.name}, entry {number}")
    elif isinstance(content, dict):
        for name, value in content.items():
            yield _named_row(name, value, columns, f"{path.name}, {name}")
    else:
        raise DatasetError(f"{path.name}: a mapping of file names to captions, or a list of objects, is expected")


READERS: Mapping[str, Callable[[Path, Columns], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".json": _json_rows,
}


def _named_row(file: str, value: Any, columns: Columns, where: str) -> Row:
    if not isinstance(value, dict):
        return Row(file, texts_of(value, where), {})
    captions = captions_in(value, columns, where)
    if captions is None:
        require_other_use(value, None, columns, where)
    return Row(file, captions, value)


def _record_row(record: Any, columns: Columns, where: str) -> Row:
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: a JSON object with file_name and text is expected")
    name = first_column(record, columns.file_names)
    if name is None:
        raise DatasetError(f"{where}: {missing_column('file', columns.file_names, record)}")
    file = record[name]
    if isinstance(file, bool) or not isinstance(file, str | int | None):
        raise DatasetError(f"{where}: {name} is {file!r}; the name of an image file is expected")
    captions = captions_in(record, columns, where)
    if captions is None:
        require_other_use(record, name, columns, where)
    return Row("" if file is None else str(file), captions, record)

"""Tables of captions and metadata: metadata.jsonl, metadata.csv, captions.csv, captions.json."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.errors import DatasetError
from preprocess.uploads.text_files import name_key, one_line, read_text

METADATA_TABLES = ("metadata.jsonl", "metadata.csv")
CSV_TABLES = ("caption.csv", "captions.csv")
JSON_TABLES = ("caption.json", "captions.json")
CAPTION_TABLES = (*METADATA_TABLES, *CSV_TABLES, *JSON_TABLES)
FILE_COLUMNS = ("file_name", "image_file", "file", "filename", "file_path", "image_path", "image", "path", "key")
TEXT_COLUMNS = ("text", "caption", "prompt", "description", "captions")


@dataclass(frozen=True)
class Columns:
    """How the columns are called; None: by the usual names."""

    file: str | None = None
    text: str | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        return (self.file,) if self.file else FILE_COLUMNS

    @property
    def text_names(self) -> tuple[str, ...]:
        return (self.text,) if self.text else TEXT_COLUMNS


@dataclass(frozen=True)
class Row:
    """`file` as written in the table. `text` is None where the table has no captions. `metadata`: all of the row."""

    file: str
    text: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class CaptionTable:
    """A table. `rows` by `name_key` of the names written in it."""

    path: Path
    rows: Mapping[str, Row]


def read_table(path: Path, columns: Columns) -> CaptionTable:
    """Raises DatasetError for a table that cannot be understood: a caption file is never ignored without an error."""
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".json": _json_rows}
    rows: dict[str, Row] = {}
    for row in readers[path.suffix.lower()](path, columns):
        if not row.file:
            continue
        known = rows.setdefault(name_key(row.file), row)
        if known.text != row.text:
            raise DatasetError(f"{path.name}: two captions for {row.file}: {known.text!r} and {row.text!r}. Keep one.")
    return CaptionTable(path, rows)


def record_text(record: Mapping[str, Any], columns: Columns) -> str | None:
    """The caption in a JSON object; None when it has none."""
    name = _column(record, columns.text_names)
    value = record[name] if name else None
    if isinstance(value, list):
        value = value[0] if value else None
    return one_line(str(value)) if value is not None else None


def _jsonl_rows(path: Path, columns: Columns) -> Iterator[Row]:
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):  # U+2028 ends no line of JSON
        if line.strip():
            where = f"{path.name}, line {number}"
            yield _record_row(parse_json(line, where), columns, where)


def _json_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """A mapping of file names to captions (or to objects that hold one), or a list of objects."""
    content = parse_json(read_text(path), path.name)
    if isinstance(content, list):
        for number, record in enumerate(content, 1):
            yield _record_row(record, columns, f"{path.name}, entry {number}")
    elif isinstance(content, dict):
        for name, value in content.items():
            record = value if isinstance(value, dict) else {}
            text = record_text(value, columns) if isinstance(value, dict) else one_line(str(value))
            yield Row(name, text, record)
    else:
        raise DatasetError(f"{path.name}: a mapping of file names to captions, or a list of objects, is expected")


def _record_row(record: Any, columns: Columns, where: str) -> Row:
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: a JSON object with file_name and text is expected")
    name = _column(record, columns.file_names)
    if name is None:
        raise DatasetError(f"{where}: {_missing('file', columns.file_names)}; found {', '.join(map(str, record))}")
    text = record_text(record, columns)
    if text is None:
        _require_other_use(record, name, columns, where)
    return Row(str(record[name]), text, record)


def _csv_rows(path: Path, columns: Columns) -> Iterator[Row]:
    rows = [row for row in _cells(read_text(path), path.name) if any(map(str.strip, row))]
    if not rows:
        return
    header = [cell.strip() for cell in rows[0]]
    if _has_header(header, columns):
        for number, cells in enumerate(rows[1:], 2):
            record = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
            yield _csv_record_row(record, header, columns, f"{path.name}, line {number}")
    else:
        for cells in rows:
            if len(cells) < 2:
                raise DatasetError(f"{path.name}: {cells} is no pair of file name and caption")
            caption = one_line(", ".join(cell.strip() for cell in cells[1:]))
            yield Row(cells[0].strip(), caption, {})


def _cells(text: str, where: str) -> list[list[str]]:
    """The rows of a CSV text. Raises DatasetError where a quote is opened and never closed: it would eat all rows."""
    dialect = _dialect(text)
    strict = csv.reader(io.StringIO(text, newline=None), dialect, strict=True)
    begun = 1
    try:
        for _ in strict:
            begun = strict.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise DatasetError(f"{where}, line {begun}: a quote is opened and never closed. Close it.") from error
    try:
        return list(csv.reader(io.StringIO(text, newline=None), dialect))
    except csv.Error as error:
        raise DatasetError(f"{where}: not CSV ({error})") from error


def _csv_record_row(record: dict[str, str], header: list[str], columns: Columns, where: str) -> Row:
    lower = {name if name in (columns.file, columns.text) else name.lower(): value for name, value in record.items()}
    if _column([*lower, *map(str.lower, header)], columns.file_names) not in lower:
        return Row("", None, {})  # a line that is too short to name a file
    return _record_row(lower, columns, where)


def _has_header(cells: list[str], columns: Columns) -> bool:
    lower = {cell.lower() for cell in cells} | set(cells)
    wanted = {*columns.file_names, *columns.text_names}
    return bool(lower & wanted) and not any(Path(cell).suffix.lower() in (".jpg", ".png", ".webp") for cell in cells)


class _Commas(csv.excel):
    skipinitialspace = True


class _Semicolons(_Commas):
    delimiter = ";"


class _Tabs(_Commas):
    delimiter = "\t"


def _dialect(text: str) -> type[csv.excel]:
    """Commas, unless the first line has none and has the semicolons or tabs of other countries' spreadsheets."""
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    if "," in first:
        return _Commas
    return _Tabs if "\t" in first else _Semicolons if ";" in first else _Commas


def parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: not JSON ({error})") from error


def _column(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    names = list(names)
    return next((name for name in wanted if name in names), None)


def _require_other_use(record: Mapping[str, Any], name: str, columns: Columns, where: str) -> None:
    """A table without captions is there for its other columns; with only a file name, a column is misnamed."""
    other_uses = [key for key in record if key != name and _is_number(record[key])]
    if columns.text or not other_uses:
        missing = _missing("text", columns.text_names)
        raise DatasetError(f"{where}: {missing}; found {', '.join(map(str, record))}. Or name it with caption_column.")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _missing(what: str, names: tuple[str, ...]) -> str:
    return f"needs a column for the {what} ({', '.join(names)})"

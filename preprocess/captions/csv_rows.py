"""Reads CSV files of spreadsheets and by hand: other delimiters, no header, unquoted commas in captions."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from preprocess.captions.columns import Columns, first_column, missing_column
from preprocess.errors import DatasetError
from preprocess.uploads.text_files import one_line, read_text

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".bmp", ".tif", ".tiff", ".gif", ".jxl")
Line = tuple[int, list[str]]
"""The number of a row's last line, and its cells."""


def csv_records(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row as a record, with a description of its line. Raises DatasetError for a malformed table."""
    text = read_text(path)
    dialect = _Tabs if path.suffix.lower() == ".tsv" else _dialect(text)
    lines = [(number, cells) for number, cells in _lines(text, path.name, dialect) if any(cells)]
    if not lines:
        return
    header = lines[0][1]
    if _is_header(header, columns):
        names = _column_names(header, columns, path.name)
        for number, cells in lines[1:]:
            where = f"{path.name}, line {number}"
            yield where, _record(names, cells, columns, where, dialect)
        return
    _require_pairs(lines, path.name)
    for number, cells in lines:
        record = {columns.file_names[0]: cells[0], columns.text_names[0]: _joined(cells[1:], dialect)}
        yield f"{path.name}, line {number}", record


def _record(
    names: Sequence[str], cells: Sequence[str], columns: Columns, where: str, dialect: "Dialect"
) -> dict[str, str]:
    """Return a row as a record. Surplus cells are joined to a caption in the last column, as it has unquoted commas."""
    if first_column(names, columns.file_names) is None:
        raise DatasetError(f"{where}: {missing_column('file', columns.file_names, names)}")
    if len(cells) > len(names):
        if names[-1] not in columns.text_names:
            raise DatasetError(
                f"{where}: {len(cells)} cells for {len(names)} columns ({', '.join(names)}); put captions with commas "
                "in quotes, or make the caption the last column"
            )
        cells = [*cells[: len(names) - 1], _joined(cells[len(names) - 1 :], dialect)]
    record = dict(zip(names, cells, strict=False))
    missing = {name: "" for name in (first_column(names, columns.file_names), *names) if name not in record}
    return record | {name: value for name, value in missing.items() if name}


def _column_names(header: Sequence[str], columns: Columns, where: str) -> list[str]:
    """Return the names in lower case, but those of the settings. Raises DatasetError for a name that occurs twice."""
    own = (columns.file, columns.text)
    names = [name if name in own else name.lower() for name in header]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DatasetError(f"{where}: has two columns named {twice!r}; rename or remove one")
    return names


def _is_header(cells: Sequence[str], columns: Columns) -> bool:
    lower = {cell.lower() for cell in cells} | set(cells)
    return bool(lower & {*columns.file_names, *columns.text_names}) and not any(map(_names_image, cells))


def _require_pairs(lines: Sequence[Line], where: str) -> None:
    """Raises DatasetError where a table without a known header does not consist of file names and captions."""
    first, others = lines[0][1], [cells for _, cells in lines[1:]]
    if not any(map(_names_image, first)) and others and all(any(map(_names_image, cells)) for cells in others):
        raise DatasetError(
            f"{where}: none of its columns ({', '.join(first)}) is known as the caption; set file_column and "
            f"caption_column, such as caption_column: {first[-1]}"
        )
    for number, cells in lines:
        if len(cells) < 2:
            raise DatasetError(f"{where}, line {number}: {cells} is not a pair of file name and caption")
    widths = {len(cells) for _, cells in lines}
    if widths == {len(first)} and len(first) > 2 and all(_is_number(cells[-1]) for _, cells in lines):
        raise DatasetError(
            f"{where}: its last column contains numbers, and it has no header; add a first line such as "
            "file_name,text,rating"
        )


def _lines(text: str, where: str, dialect: "Dialect") -> list[Line]:
    """Return the rows of a CSV text. Raises DatasetError for an unclosed quote, which would join all following rows."""
    strict = csv.reader(io.StringIO(text, newline=None), dialect, strict=True)
    begun = 1
    try:
        for _ in strict:
            begun = strict.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise DatasetError(f"{where}, line {begun}: has an unclosed quote. Close it.") from error
    reader = csv.reader(io.StringIO(text, newline=None), dialect)
    try:
        return [(reader.line_num, _without_empty_end(cells)) for cells in reader]
    except csv.Error as error:
        raise DatasetError(f"{where}: is not CSV ({error})") from error


def _without_empty_end(cells: Sequence[str]) -> list[str]:
    """Strip cells, and remove empty cells that spreadsheets append to rows."""
    stripped = [cell.strip() for cell in cells]
    while len(stripped) > 2 and not stripped[-1]:
        stripped.pop()
    return stripped


def _joined(cells: Sequence[str], dialect: "Dialect") -> str:
    """Return the caption whose unquoted delimiters split it into cells. Tabs become spaces."""
    return one_line(f"{dialect.delimiter.strip()} ".join(cells))


def _names_image(cell: str) -> bool:
    return cell.lower().endswith(IMAGE_ENDINGS)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Commas(csv.excel):
    skipinitialspace = True


class _Semicolons(_Commas):
    delimiter = ";"


class _Tabs(_Commas):
    delimiter = "\t"


Dialect = type[csv.excel]


def _dialect(text: str) -> Dialect:
    """Return the dialect by the separator after the first cell: a comma, or a semicolon or tab as in other locales."""
    match = re.match(r'\s*(?:"(?:[^"]|"")*"|[^,;\t\n"]*)\s*?([,;\t])', text)
    return {",": _Commas, ";": _Semicolons, "\t": _Tabs}[match[1]] if match else _Commas

"""Writes the images of a dataset's rows to files: bytes, files of the dataset, and URLs."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from fetching.download import download, is_url
from fetching.errors import DownloadError
from preprocess.captions.columns import FILE_COLUMNS, Columns, captions_in, require_other_use
from preprocess.dataset import Rejected
from preprocess.errors import DatasetError
from preprocess.sources.columns import USUAL_COLUMNS, RowColumns, table_row
from preprocess.uploads.archive import ArchiveLimits
from preprocess.uploads.decoding import IMAGE_SUFFIXES
from preprocess.workers.parallel import ordered_map

Row = Mapping[str, Any]
OpenFile = Callable[[str], bytes]
"""The content of a file that a row names. Raises DatasetError for one that does not belong to the dataset."""
TABLE = "metadata.jsonl"


@dataclass(frozen=True)
class RowWriter:
    """Writes one row's image into `folder`. `where`: the user's name of the dataset. `column`: that of the image;
    `columns`: those of the settings."""

    where: str
    column: str
    folder: Path
    limits: ArchiveLimits
    open_file: OpenFile
    columns: RowColumns = USUAL_COLUMNS

    def __call__(self, numbered: tuple[int, Row]) -> tuple[int, Path | Rejected, Row]:
        """Return the number of the row, its file or the reason why it has none, and the other fields of the row."""
        number, row = numbered
        try:
            path = self._write(number, row[self.column])
        except (DatasetError, DownloadError) as error:
            return number, Rejected(f"row {number}", f"{self.where}, row {number}: {error}"), {}
        return number, path, table_row(row, self.column, self.columns.caption)

    def _write(self, number: int, value: Any) -> Path:
        """Write the image. Raises DatasetError and DownloadError for anything else."""
        name, data = (value.get("path") or "", value.get("bytes")) if isinstance(value, dict) else ("", value)
        if isinstance(data, str) or (data is None and name):
            name = data or name
            data = None if is_url(name) else self.open_file(name)
        suffix = PurePosixPath(name.partition("?")[0]).suffix.lower()
        path = self.folder / f"{number:08d}{suffix if suffix in IMAGE_SUFFIXES else ''}"
        if data is None and name:
            return download(name, path, max_bytes=self.limits.file_bytes).path
        if not isinstance(data, bytes):
            what = "is empty" if data is None else f"contains {type(data).__name__}, not an image or URL"
            raise DatasetError(f"its column {self.column} {what}")
        if len(data) > self.limits.file_bytes:
            raise DatasetError(f"its image has more than {self.limits.file_bytes:,} bytes (max_file_bytes)")
        path.write_bytes(data)
        return path


def write_rows(rows: Iterable[Row], writer: RowWriter, threads: int | None) -> list[Rejected]:
    """Fill the writer's folder with images and a metadata.jsonl of the other columns. Returns the rejected rows.

    Raises DatasetError if the number or size of the rows exceeds the limits, and for captions that cannot be read.
    """
    limits, rejected, total = writer.limits, [], 0
    with (writer.folder / TABLE).open("w", encoding="utf-8") as table:
        for number, result, record in ordered_map(writer, _limited(rows, writer.where, limits), threads):
            if isinstance(result, Rejected):
                rejected.append(result)
                continue
            total += result.stat().st_size
            if total > limits.total_bytes:
                raise DatasetError(
                    f"{writer.where}: its first {number + 1:,} images have more than {limits.total_bytes:,} bytes. "
                    "Select fewer rows, or increase max_archive_bytes"
                )
            if record:
                _require_captions(record, writer.columns, f"{writer.where}, row {number}")
                named = {**record, writer.columns.file or FILE_COLUMNS[0]: result.name}
                table.write(json.dumps(named, ensure_ascii=False) + "\n")
    if (writer.folder / TABLE).stat().st_size == 0:
        (writer.folder / TABLE).unlink()
    return rejected


def _require_captions(record: Row, columns: RowColumns, where: str) -> None:
    """Raises DatasetError for captions that cannot be read, which would be errors in TABLE, a name unknown to users."""
    known = Columns(text=columns.caption)
    if captions_in(record, known, where) is None:
        require_other_use(record, None, known, where)


def _limited(rows: Iterable[Row], where: str, limits: ArchiveLimits) -> Iterator[tuple[int, Row]]:
    numbered = enumerate(rows)
    yield from islice(numbered, limits.members)
    if next(numbered, None) is not None:
        raise DatasetError(
            f"{where}: has more than {limits.members:,} rows. Select some of them, such as "
            f":train[:{limits.members}], or increase max_archive_files"
        )

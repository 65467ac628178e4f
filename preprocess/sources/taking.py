"""Imports a source given by name: its images and captions become files in a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fetching.errors import DownloadError
from fetching.rules import FetchRules
from preprocess.dataset import Rejected
from preprocess.errors import DatasetError
from preprocess.sources.columns import RECORD_COLUMN, USUAL_COLUMNS, RowColumns, image_column
from preprocess.sources.hub import errors_of, open_hub, open_local
from preprocess.sources.pictures import OpenFile, Row, RowWriter, write_rows
from preprocess.sources.references import HubReference
from preprocess.uploads.archive import ArchiveLimits, safe_path

if TYPE_CHECKING:
    from datasets import IterableDataset


@dataclass(frozen=True)
class Taking:
    """Writes rows to files. `threads`: number of threads that download images; None: one per core."""

    limits: ArchiveLimits
    columns: RowColumns = USUAL_COLUMNS
    threads: int | None = None

    def from_hub(self, source: str, folder: Path) -> list[Rejected]:
        """Fill `folder` with a dataset of the hub. Returns the rejected rows. Raises DatasetError."""
        reference = HubReference.parse(source)
        try:
            rules = FetchRules.from_environment()
        except DownloadError as error:
            raise DatasetError(str(error)) from error
        return self._take(open_hub(reference, rules), str(reference), folder, _of_repository(reference.name, rules))

    def from_table(self, path: Path, folder: Path) -> list[Rejected]:
        """Fill `folder` with the images that a local table contains or names. Returns the rejected rows and splits.

        Raises DatasetError.
        """
        rows, left_out = open_local(path)
        return left_out + self._take(rows, path.name, folder, _beside(path if path.is_dir() else path.parent))

    def _take(self, rows: "IterableDataset", where: str, folder: Path, open_file: OpenFile) -> list[Rejected]:
        names, typed = _columns_of(rows, where)
        fields = (rows.features or {}).get(RECORD_COLUMN)
        column = image_column(where, names, typed, self.columns, fields if isinstance(fields, dict) else ())
        folder.mkdir(parents=True, exist_ok=True)
        writer = RowWriter(where, column, folder, self.limits, open_file, self.columns)
        return write_rows(_read(rows, where), writer, self.threads)


def _columns_of(rows: "IterableDataset", where: str) -> tuple[list[str], list[str]]:
    """Return all columns, and those declared as images. Without declarations, the first row has the columns."""
    import datasets

    features = rows.features
    if features:
        return list(features), [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    with errors_of(where):
        first = next(iter(rows), None)
    if first is None:
        raise DatasetError(f"{where}: has no rows, so no images. Select another split or other rows")
    return list(first), []


def _read(rows: "IterableDataset", where: str) -> Iterator[Row]:
    """Yield the rows. Raises DatasetError with the number of rows that were read."""
    count = 0
    iterator = iter(rows)
    while True:
        with errors_of(f"{where}, after {count} rows"):
            row = next(iterator, None)
        if row is None:
            break
        yield row
        count += 1
    if count == 0:
        raise DatasetError(f"{where}: has no rows, so no images. Select another split or other rows")


def _of_repository(name: str, rules: FetchRules) -> OpenFile:
    own = f"hf://datasets/{name}@"

    def open_file(path: str) -> bytes:
        from datasets import DownloadConfig
        from datasets.utils.file_utils import xopen

        if not path.split("::")[-1].startswith(own):
            raise DatasetError("its image is outside the dataset's repository, and is not read")
        options = DownloadConfig(token=rules.hub_token)
        with errors_of(path.rpartition("/")[2]), xopen(path, "rb", download_config=options) as file:
            return bytes(file.read())

    return open_file


def _beside(folder: Path) -> OpenFile:
    def open_file(name: str) -> bytes:
        path = folder / safe_path(name)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(f"{name}: is outside the folder of its table, and is not read")
        try:
            return path.read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{name}: cannot be read ({error.strerror}); file names are relative to the table"
            ) from error

    return open_file

"""Finds the column of a dataset with the images, and checks the one with the captions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preprocess.captions.columns import TEXT_COLUMNS
from preprocess.errors import DatasetError

RECORD_COLUMN = "json"
"""The column of webdataset shards with the fields of the JSON file beside an image."""
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "pixel_values")
URL_COLUMNS = ("url", "image_url", "img_url", "image_link", "link")
"""Names of URL columns in LAION's lists and img2dataset, in any case."""


@dataclass(frozen=True)
class RowColumns:
    """The names of a dataset's columns; None: the usual names. `file`: the column of file names in tables."""

    image: str | None = None
    caption: str | None = None
    file: str | None = None


USUAL_COLUMNS = RowColumns()


def image_column(
    where: str, names: Iterable[str], image_typed: Iterable[str], columns: RowColumns, fields: Iterable[str] = ()
) -> str:
    """Return the column with the images or their URLs.

    `image_typed`: the columns that the dataset declares as images. `fields`: those of RECORD_COLUMN. Raises
    DatasetError if there is none, if several are possible, and if a column of the settings does not exist.
    """
    names, typed = list(names), list(image_typed)
    listed = ", ".join(names)
    for setting, wanted, known in (
        ("image_column", columns.image, names), ("caption_column", columns.caption, [*names, *fields]),
    ):  # fmt: skip
        if wanted is not None and wanted not in known:
            raise DatasetError(f"{where}: has no column {wanted!r} ({setting}). Its columns: {', '.join(known)}")
    if columns.image is not None:
        return columns.image
    if len(typed) > 1:
        raise DatasetError(
            f"{where}: several columns contain images ({', '.join(typed)}). Select one with image_column"
        )
    lower = {name.lower(): name for name in reversed(names)}
    usual = [lower[name] for name in (*IMAGE_COLUMNS, *URL_COLUMNS) if name in lower]
    if not typed and not usual:
        raise DatasetError(
            f"{where}: none of its columns ({listed}) is known to contain images or their URLs. Set image_column, or "
            "use another dataset"
        )
    return (typed or usual)[0]


def table_row(record: Mapping[str, Any], image: str, caption: str | None = None) -> dict[str, Any]:
    """Return the fields of a row for metadata.jsonl: all but the image, if they can be written as JSON.

    Those of RECORD_COLUMN are added, as if they were columns. A caption in a column of its own precedes theirs, as a
    text file beside an image precedes its JSON file. `caption`: the column of the settings.
    """
    row = {name: plain(value) for name, value in record.items() if name != image and _is_plain(value)}
    fields = row.get(RECORD_COLUMN)
    if not isinstance(fields, dict):
        return row
    if any(row.get(name) for name in TEXT_COLUMNS):
        fields = {name: value for name, value in fields.items() if name not in TEXT_COLUMNS or name == caption}
    return {**fields, **row}


def plain(value: Any) -> Any:
    """Return lists and mappings without values that cannot be written as JSON."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)

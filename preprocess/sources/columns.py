"""Finds the column of a dataset with the images, and checks the one with the captions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preprocess.errors import DatasetError

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "pixel_values")
URL_COLUMNS = ("url", "image_url", "img_url", "image_link", "link")
"""As LAION's lists and img2dataset call it; letters may be large."""


@dataclass(frozen=True)
class RowColumns:
    """How the columns of a dataset's rows are called; None: by the usual names."""

    image: str | None = None
    caption: str | None = None


USUAL_COLUMNS = RowColumns()


def image_column(where: str, names: Iterable[str], image_typed: Iterable[str], columns: RowColumns) -> str:
    """The column with the pictures or their URLs.

    `image_typed`: those that the dataset itself declares to be images. Raises DatasetError where there is none, where
    several could be meant, and where a column that was asked for does not exist.
    """
    names, typed = list(names), list(image_typed)
    listed = ", ".join(names)
    for setting, wanted in (("image_column", columns.image), ("caption_column", columns.caption)):
        if wanted is not None and wanted not in names:
            raise DatasetError(f"{where}: has no column {wanted!r} ({setting}). Its columns: {listed}")
    if columns.image is not None:
        return columns.image
    if len(typed) > 1:
        raise DatasetError(
            f"{where}: several columns hold images ({', '.join(typed)}). Name the one that is meant with image_column"
        )
    lower = {name.lower(): name for name in reversed(names)}
    usual = [lower[name] for name in (*IMAGE_COLUMNS, *URL_COLUMNS) if name in lower]
    if not typed and not usual:
        raise DatasetError(
            f"{where}: a dataset without images: none of its columns ({listed}) is known to hold pictures or their "
            "URLs. Name the one that does with image_column, or give another dataset"
        )
    return (typed or usual)[0]


def table_row(record: Mapping[str, Any], image: str) -> dict[str, Any]:
    """What of a row goes into metadata.jsonl: all but the picture, as far as JSON can hold it."""
    return {name: plain(value) for name, value in record.items() if name != image and _is_plain(value)}


def plain(value: Any) -> Any:
    """Lists and mappings with what JSON can hold."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)

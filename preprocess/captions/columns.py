"""Determines the columns of a table for file names and captions, and validates their values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preprocess.errors import DatasetError
from preprocess.uploads.text_files import one_line

FILE_COLUMNS = ("file_name", "image_file", "file", "filename", "file_path", "image_path", "image", "path", "key")
TEXT_COLUMNS = ("text", "caption", "prompt", "description", "captions", "txt")


@dataclass(frozen=True)
class Columns:
    """The column names of a table. None: one of the usual names."""

    file: str | None = None
    text: str | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """Candidates for the file column, in order of precedence."""
        return (self.file,) if self.file else FILE_COLUMNS

    @property
    def text_names(self) -> tuple[str, ...]:
        """Candidates for the caption column, in order of precedence."""
        return (self.text,) if self.text else TEXT_COLUMNS


def captions_in(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...] | None:
    """Return the captions of one image from the first column that is not empty; () where all are, None without such a
    column.

    Raises DatasetError for two columns with different captions, and for a value that is not text.
    """
    names = [name for name in columns.text_names if name in record]
    filled = {name: texts for name in names if (texts := texts_of(record[name], f"{where}, {name}"))}
    if len(set(filled.values())) > 1:
        raise DatasetError(
            f"{where}: the columns {', '.join(filled)} contain different captions; select one with "
            f"caption_column, such as caption_column: {next(iter(filled))}"
        )
    return next(iter(filled.values()), () if names else None)


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """Return a text or list of texts as a tuple without empty ones. Raises DatasetError for any other value."""
    values = value if isinstance(value, list) else [value]
    for each in values:
        if each is not None and not isinstance(each, str):
            raise DatasetError(f"{where}: {_shown(each)} is not a caption; a text or a list of texts is expected")
    return tuple(dict.fromkeys(text for each in values if each and (text := one_line(each))))


def first_column(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """Return the first of the wanted names that exists."""
    names = list(names)
    return next((name for name in wanted if name in names), None)


def require_other_use(record: Mapping[str, Any], name: str | None, columns: Columns, where: str) -> None:
    """Accept a table without captions if it holds numbers. Raises DatasetError where a column may hold captions.

    `name`: the column of the file, None where the file is named outside the record.
    """
    others = [value for key, value in record.items() if key != name]
    if columns.text or not any(map(_is_number, others)) or any(map(_may_be_caption, others)):
        raise DatasetError(f"{where}: {missing_column('text', columns.text_names, record)}")


def missing_column(what: str, names: Iterable[str], found: Iterable[str]) -> str:
    """Return the message for a missing column. `what`: file or text."""
    setting = "file_column" if what == "file" else "caption_column"
    return (
        f"needs a column for the {what} ({', '.join(names)}); found {', '.join(map(str, found))}. "
        f"Rename the column, or set {setting}."
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _may_be_caption(value: Any) -> bool:
    """Whether the value has several words, so that it is not a label, path or URL."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and len(text.split()) > 1 and "://" not in text for text in texts)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

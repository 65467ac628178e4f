"""Which column of a table names the image, which one holds its captions, and what may stand in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from preprocess.errors import DatasetError
from preprocess.uploads.text_files import one_line

FILE_COLUMNS = ("file_name", "image_file", "file", "filename", "file_path", "image_path", "image", "path", "key")
TEXT_COLUMNS = ("text", "caption", "prompt", "description", "captions")


@dataclass(frozen=True)
class Columns:
    """How the columns are called; None: by the usual names."""

    file: str | None = None
    text: str | None = None

    @property
    def file_names(self) -> tuple[str, ...]:
        """In order of precedence."""
        return (self.file,) if self.file else FILE_COLUMNS

    @property
    def text_names(self) -> tuple[str, ...]:
        """In order of precedence."""
        return (self.text,) if self.text else TEXT_COLUMNS


def captions_in(record: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, ...] | None:
    """The captions of one image: of the first column that is not empty; () where all are, None without such a column.

    Raises DatasetError for two columns that say different things, and for a value that is no text.
    """
    names = [name for name in columns.text_names if name in record]
    filled = {name: texts for name in names if (texts := texts_of(record[name], f"{where}, {name}"))}
    if len(set(filled.values())) > 1:
        raise DatasetError(
            f"{where}: the columns {', '.join(filled)} hold different captions; name the one that is meant with "
            f"caption_column, such as caption_column: {next(iter(filled))}"
        )
    return next(iter(filled.values()), () if names else None)


def texts_of(value: Any, where: str) -> tuple[str, ...]:
    """A text or a list of texts, without the empty ones. Raises DatasetError for anything else."""
    values = value if isinstance(value, list) else [value]
    for each in values:
        if each is not None and not isinstance(each, str):
            raise DatasetError(f"{where}: {_shown(each)} is no caption; a text or a list of texts is expected")
    return tuple(dict.fromkeys(text for each in values if each and (text := one_line(each))))


def first_column(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted names that there is."""
    names = list(names)
    return next((name for name in wanted if name in names), None)


def require_other_use(record: Mapping[str, Any], name: str | None, columns: Columns, where: str) -> None:
    """A table without captions is there for its numbers. Raises DatasetError where a column may hold captions.

    `name`: the column of the file, None where the file is named outside the record.
    """
    others = [value for key, value in record.items() if key != name]
    if columns.text or not any(map(_is_number, others)) or any(map(_may_be_caption, others)):
        raise DatasetError(f"{where}: {missing_column('text', columns.text_names, record)}")


def missing_column(what: str, names: Iterable[str], found: Iterable[str]) -> str:
    """What to say where no column has a known name. `what`: file or text."""
    setting = "file_column" if what == "file" else "caption_column"
    return (
        f"needs a column for the {what} ({', '.join(names)}); found {', '.join(map(str, found))}. "
        f"Or name it with {setting}."
    )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _may_be_caption(value: Any) -> bool:
    """Several words: no label, path or address."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and len(text.split()) > 1 and "://" not in text for text in texts)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

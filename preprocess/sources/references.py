"""Parses the names of sources. Nothing is opened here, so errors are found early."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from preprocess.errors import DatasetError

HUB_SCHEME = "hf://"
STORES = ("s3://", "gs://", "gcs://", "az://", "abfs://", "file:")
"""Schemes that fsspec opens."""
TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".arrow")
USUAL_SPLIT = "train"
SPLIT_WORDS = {
    "train": USUAL_SPLIT, "training": USUAL_SPLIT,
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""The words of file and folder names by which the library `datasets` finds the splits."""
FORM = "hf://owner/name[@revision][/config][:split], the split also with rows, such as train[:500]"
_HUB = re.compile(
    r"(?:datasets/)?(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/\w+|[\w.-]+))?(?:/(?P<config>[\w.-]+))?"
    r"(?::(?P<split>\w+)(?:\[(?P<first>\d*):(?P<last>\d*)\])?)?"
)


@dataclass(frozen=True)
class HubReference:
    """A dataset of the hub. `first`, `last`: the rows that are taken, as a slice; None: no limit."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    first: int = 0
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> "HubReference":
        """Read `hf://owner/name[@revision][/config][:split[rows]]`. Raises DatasetError."""
        match = _HUB.fullmatch(text.removeprefix(HUB_SCHEME))
        if match is None or ".." in text:
            raise DatasetError(f"{text}: is not a dataset of the hub. Write {FORM}")
        first, last = match["first"], match["last"]
        return cls(
            match["name"], match["revision"], match["config"], match["split"],
            int(first) if first else 0, int(last) if last else None,
        )  # fmt: skip

    def __str__(self) -> str:
        rows = f"[{self.first or ''}:{self.last if self.last is not None else ''}]"
        return "".join((
            HUB_SCHEME, self.name, f"@{self.revision}" if self.revision else "",
            f"/{self.config}" if self.config else "", f":{self.split}" if self.split else "",
            rows if self.split and rows != "[:]" else "",
        ))  # fmt: skip


def require_url(url: str) -> None:
    """Raises DatasetError for a URL that cannot be parsed."""
    try:
        urlsplit(url)
    except ValueError as error:
        raise DatasetError(f"{url[:100]!r}: is not a valid URL ({error}). Correct it.") from error


def is_hub(source: str) -> bool:
    """Whether the source is a dataset of the hub."""
    return source.startswith(HUB_SCHEME)


def is_store(source: str) -> bool:
    """Whether the source is in an object store, or names several shards at https URLs."""
    return source.startswith(STORES) or (source.startswith("https://") and "{" in source)


def is_remote(source: str) -> bool:
    """Whether the source is not a local path."""
    return is_hub(source) or is_store(source)


def is_table(path: Path) -> bool:
    """Whether the path is a table of images or URLs, a folder saved by `datasets`, or a folder of tables only."""
    if path.is_dir():
        return is_saved(path) or bool(tables_in(path))
    return path.suffix.lower() in TABLE_SUFFIXES


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of the library `datasets` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether the path or a folder on the way to it is hidden, as the .cache that downloads from the hub leave."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def tables_in(folder: Path) -> list[Path]:
    """Return the parquet or arrow files of a folder that contains no other data, otherwise []."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
    tables = [path for path in files if path.suffix.lower() in (".parquet", ".arrow")]
    others = [path for path in files if path not in tables and path.suffix.lower() not in (".md", ".json", ".lock")]
    return tables if not others and [path.name for path in tables] != ["metadata.parquet"] else []


def split_of(table: Path) -> str:
    """Return the split of a table by its own name, otherwise by the nearest folder's. `table`: relative to its data.

    Tables that name no split are training data.
    """
    for name in (table.name, *(folder.name for folder in table.parents)):
        found = [SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS]
        if found:
            return USUAL_SPLIT if USUAL_SPLIT in found else found[0]
    return USUAL_SPLIT

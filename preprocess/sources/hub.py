"""Opens datasets with the library `datasets`, from the hub or from disk. Rows are streamed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import constants

from fetching.disk import is_disk_full
from fetching.errors import DownloadError
from fetching.hub_connection import require_answer
from fetching.rules import FetchRules
from preprocess.dataset import Rejected
from preprocess.errors import DatasetError
from preprocess.name_lists import first_names
from preprocess.sources.extra import needing_extra
from preprocess.sources.references import USUAL_SPLIT, HubReference, is_saved, split_of, tables_in
from settings.public import hide_paths

if TYPE_CHECKING:
    from datasets import IterableDataset

LONGEST_REASON = 200
FORMATS = ("parquet", "arrow", "imagefolder", "webdataset", "csv", "json")
"""Formats of data files that are read. The library supports others, some of which contain no images."""


def open_hub(reference: HubReference, rules: FetchRules) -> "IterableDataset":
    """Return the rows of a dataset of the hub, not yet read. Images are bytes or names of its files.

    Raises DatasetError for a dataset that does not exist, is not allowed, or whose files are outside its repository.
    """
    with needing_extra(str(reference)):
        import datasets

    host = urlsplit(constants.ENDPOINT).hostname or ""
    if not rules.allows_host(host):
        raise DatasetError(f"{reference}: {host} is not in the operator's list (FETCH_ALLOWED_HOSTS)")
    datasets.disable_progress_bars()
    _require_hub(reference)
    with errors_of(str(reference)):
        configs = datasets.get_dataset_config_names(reference.name, revision=reference.revision, token=rules.hub_token)
        config = chosen(str(reference), "configuration", configs, reference.config, "default")
        builder = datasets.load_dataset_builder(
            reference.name, config, revision=reference.revision, token=rules.hub_token
        )
        _require_own_files(reference, builder)
        streams = builder.as_streaming_dataset()
        split = chosen(str(reference), "split", streams, reference.split, USUAL_SPLIT)
        rows = _undecoded(streams[split])
    rows = rows.skip(reference.first) if reference.first else rows
    return rows if reference.last is None else rows.take(max(0, reference.last - reference.first))


def open_local(path: Path) -> tuple["IterableDataset", list[Rejected]]:
    """Return the rows of a table, a folder of tables, or a folder written by `save_to_disk`, and what is left out of a
    folder: the splits that are not trained. Raises DatasetError."""
    with needing_extra(path.name):
        import datasets

    datasets.disable_progress_bars()
    with errors_of(path.name):
        if is_saved(path):
            saved = datasets.load_from_disk(path)
            split = chosen(path.name, "split", saved, None, USUAL_SPLIT) if isinstance(saved, Mapping) else None
            others = [(name, name) for name in saved if name != split] if isinstance(saved, Mapping) else []
            rows = _undecoded((saved if split is None else saved[split]).to_iterable_dataset())
            return rows, _left_out(path.name, split, others)
        splits = {file: split_of(file.relative_to(path)) for file in tables_in(path)} if path.is_dir() else {}
        split = chosen(path.name, "split", dict.fromkeys(splits.values()), None, USUAL_SPLIT) if splits else None
        files = [file for file, each in splits.items() if each == split] or [path]
        suffix = files[0].suffix.lower()
        if any(file.suffix.lower() != suffix for file in files):
            raise DatasetError(f"{path.name}: contains both parquet and arrow files. Give folders of one format each")
        kind = "csv" if suffix == ".tsv" else suffix[1:]
        options = {"sep": "\t"} if suffix == ".tsv" else {}
        names = list(map(str, files))
        rows = _undecoded(datasets.load_dataset(kind, data_files=names, split=USUAL_SPLIT, streaming=True, **options))
        others = [(str(file.relative_to(path)), each) for file, each in splits.items() if each != split]
        return rows, _left_out(path.name, split, others)


def chosen(where: str, what: str, there_are: Iterable[str], wanted: str | None, usual: str) -> str:
    """Return the given name, otherwise the usual one, otherwise the only one. Raises DatasetError with the list."""
    names = list(there_are)
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted if wanted is not None else names[0]
    if wanted is None and usual in names:
        return usual
    problem = f"has no {what} {wanted!r}" if wanted else f"has several {what}s, and none is named {usual}"
    raise DatasetError(f"{where}: {problem}. It has: {first_names(names)}")


@contextmanager
def errors_of(where: str) -> Iterator[None]:
    """A context that converts exceptions of the library to a DatasetError of one line, without headers or tokens."""
    try:
        yield
    except (DatasetError, DownloadError):
        raise
    except Exception as error:  # pyarrow, fsspec, httpx and `datasets` have different classes
        if is_disk_full(error):
            raise
        raise DatasetError(f"{where}: cannot be read: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return the reason and the remedy on one line, without URLs, which may be signed."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is not None:
        hint = (
            "; if the dataset is private or gated, set HF_TOKEN" if status in (401, 403, 404) else "; try again later"
        )
        return f"the server answered {status}{hint}"
    if isinstance(error, ConnectionError) or type(error).__name__ in ("ConnectError", "ReadTimeout", "ConnectTimeout"):
        return f"the server cannot be reached ({type(error).__name__}). Check the network, and start again"
    line = re.sub(r"\w+://\S+", "…", hide_paths(str(error).partition("\n")[0]))[:LONGEST_REASON]
    return f"{type(error).__name__}: {line}. Check the name, and that the file is complete"


def _undecoded(rows: "IterableDataset") -> "IterableDataset":
    """Keep images as bytes: they are decoded later, within limits. CSV and JSON have no features and no images."""
    return rows.decode(False) if rows.features else rows


def _left_out(where: str, split: str | None, others: Iterable[tuple[str, str]]) -> list[Rejected]:
    """Return the entries for the other splits of a folder. `others`: the name of each in the folder, and its split."""
    return [
        Rejected(
            f"{where}/{name}",
            f"{where}/{name}: is the split {each}, and {split} is trained. Give it as data, too, to train it",
        )
        for name, each in others
    ]


def _require_hub(reference: HubReference) -> None:
    """Raises DatasetError for a local folder of the same name, which the library would open, and without a network."""
    if Path(reference.name).exists():
        raise DatasetError(
            f"{reference}: the local folder {reference.name} has the same name. Give that folder as data, or "
            "start the command in another folder"
        )
    if constants.HF_HUB_OFFLINE:
        return
    try:
        require_answer(f"{reference}: the hub")
    except DownloadError as error:
        raise DatasetError(str(error)) from error


def _require_own_files(reference: HubReference, builder: Any) -> None:
    """Raises DatasetError if a repository's card names data files outside the repository."""
    kind = type(builder).__module__.rpartition(".")[2].partition("-")[0]
    if not any(part in FORMATS for part in type(builder).__module__.split(".")):
        raise DatasetError(f"{reference}: its files have the format {kind}; supported are {', '.join(FORMATS)}")
    own = f"hf://datasets/{reference.name}@"
    for files in (builder.config.data_files or {}).values():
        for file in files:
            if not str(file).split("::")[-1].startswith(own):
                raise DatasetError(f"{reference}: lists a data file outside its repository, which is not read")

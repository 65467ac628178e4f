"""Unpacks the uploads to local folders: archives, folders, URLs, webdataset shards."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from fetching.download import download, is_url, shown
from fetching.errors import DownloadError, DownloadTooLarge
from preprocess.dataset import Rejected
from preprocess.errors import DatasetError
from preprocess.sources.columns import USUAL_COLUMNS, RowColumns
from preprocess.sources.references import is_hub, is_store, is_table, require_url
from preprocess.sources.stores import expanded, fetch, local_path, opened, size_of
from preprocess.sources.taking import Taking
from preprocess.uploads.archive import ArchiveLimits, is_ignored, is_tar_name, unpack, unpack_stream
from preprocess.uploads.decoding import is_image_name
from preprocess.workers.workers import SINGLE_PROCESS, Work, Workers

NO_UTF8 = "its name is not UTF-8, and is not used; rename the file or its folder"
LONGEST_NAME = 60
"""Longest file name of a download, in characters: file systems allow 255 bytes."""


@dataclass(frozen=True)
class FoundFile:
    """A file of the user. `name`: its name for the user, relative to the source. `root`: the source's folder.

    `source`: the number of the source that it comes from."""

    path: Path
    name: str
    root: Path
    source: int = 0


@dataclass(frozen=True)
class TakenIn:
    """All files of all sources, and the rejected rows of tables."""

    files: list[FoundFile]
    rejected: list[Rejected]


@dataclass(frozen=True)
class Unpack:
    """Unpacks an archive, as picklable function of workers."""

    limits: ArchiveLimits

    def __call__(self, archive: tuple[Path | str, Path]) -> None:
        """Unpack an archive, or a shard in a store by its URL, to the given folder. Raises DatasetError."""
        source, folder = archive
        if isinstance(source, Path):
            unpack(source, folder, self.limits)
            return
        with opened(source) as stream:
            unpack_stream(stream, source, size_of(source), folder, self.limits)


def take_in(
    sources: Sequence[str | Path],
    scratch: Path,
    limits: ArchiveLimits,
    workers: Workers = SINGLE_PROCESS,
    num_workers: int | None = None,
    columns: RowColumns = USUAL_COLUMNS,
) -> TakenIn:
    """Return all files of all sources, in a stable order, without files of operating systems.

    With several sources, each file's name begins with the source's name. `columns`: of datasets and tables. Raises
    DatasetError.
    """
    if not sources:
        raise DatasetError("data: is missing. Give a zip, a tar, a folder of images, or the URL of one.")
    taking = Taking(limits, columns, num_workers)
    parts: list[_Part] = []
    rejected: list[Rejected] = []
    for index, (source, label) in enumerate(zip(sources, source_labels(sources), strict=True)):
        target = scratch / str(index)
        target.mkdir(parents=True)
        for part in _parts(source, target, taking):
            parts.append(replace(part, beginning=label + part.beginning, source=index))
            rejected += [Rejected(label + row.source, row.reason) for row in part.rejected]
    archives = [(part.archive, part.folder) for part in parts if part.archive is not None]
    # rank 0 unpacks the first one
    others = [archive for archive, _ in archives[1:] if isinstance(archive, Path)]
    for _ in workers.map(Work.of(Unpack(limits), [scratch, *others]), archives, num_workers):
        pass
    found = [
        FoundFile(file.path, part.beginning + file.name, file.root, part.source)
        for part in parts
        for file in files_in(part.folder)
        if not _is_shard(file.path, part.folder)
    ]
    files = [file for file in found if _is_utf8(file)]
    rejected += [Rejected(file.name, f"{file.name}: {NO_UTF8}") for file in found if not _is_utf8(file)]
    return TakenIn(files, rejected)


@dataclass(frozen=True)
class _Part:
    """A part of a source. `archive`: is unpacked into `folder`. `beginning`: the beginning of its files' names."""

    folder: Path
    archive: Path | str | None = None
    beginning: str = ""
    source: int = 0
    rejected: Sequence[Rejected] = ()


def _parts(source: str | Path, target: Path, taking: Taking) -> Iterator[_Part]:
    if is_hub(str(source)):
        folder = target / "rows"
        yield _Part(folder, rejected=taking.from_hub(str(source), folder))
        return
    if not is_store(str(source)):
        yield from _parts_of_one(source, target, taking)
        return
    addresses = expanded(str(source), taking.limits.members)
    for index, (address, label) in enumerate(zip(addresses, source_labels(addresses), strict=True)):
        for part in _parts_of_one(address, target / str(index), taking):
            yield replace(part, beginning=label + part.beginning)


def _parts_of_one(source: str | Path, target: Path, taking: Taking) -> Iterator[_Part]:
    """Yield the parts of a path, a URL, or one URL of a store."""
    target.mkdir(parents=True, exist_ok=True)
    text = str(source)
    if is_store(text) and local_path(text) is None and not is_url(text):
        name = PurePosixPath(text).name
        if is_tar_name(name):
            yield _Part(target / "files", text)
            return
        path = fetch(text, target / "download" / name, taking.limits.total_bytes)
        if is_image_name(path):
            yield _Part(path.parent)
            return
    else:
        path = local_path(text) or Path(_fetch(text, target, taking.limits) if is_url(text) else source)
    if is_table(path):
        folder = target / "rows"
        yield _Part(folder, rejected=taking.from_table(path, folder))
    elif not path.is_dir():
        yield _Part(target / "files", path)
    else:
        yield _Part(path)
        for shard in sorted(each for each in path.iterdir() if _is_shard(each, path)):
            yield _Part(target / shard.name, shard, f"{shard.name}/")


def _fetch(url: str, folder: Path, limits: ArchiveLimits) -> Path:
    require_url(url)
    name = Path(urlsplit(url).path).name.strip(".")[-LONGEST_NAME:] if not url.startswith("data:") else ""
    target = folder / "download" / (name or "download")
    target.parent.mkdir()
    try:
        return download(url, target, max_bytes=limits.total_bytes).path
    except DownloadTooLarge as error:
        raise DatasetError(f"{error}. Use less data, or increase max_archive_bytes.") from error
    except DownloadError as error:
        raise DatasetError(f"{error}. Check the URL, or download the file yourself.") from error


def files_in(root: Path) -> list[FoundFile]:
    """Return the files of a folder, with the targets of links to files. Links to folders are not followed: they may be
    circular. Bytes of names that are not UTF-8 are shown as escapes."""
    found = []
    for path in sorted(_below(root)):
        name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
        if not is_ignored(name):
            found.append(FoundFile(path, name, root))
    return found


def _is_utf8(file: FoundFile) -> bool:
    """Whether the path below the root can be written as text."""
    try:
        file.path.relative_to(file.root).as_posix().encode()
    except UnicodeEncodeError:
        return False
    return True


def _below(root: Path) -> Iterator[Path]:
    """Yield every path below the folder that is not a folder."""

    def fail(error: OSError) -> None:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror}). Grant read permission.") from error

    for folder, folders, names in os.walk(root, onerror=fail):
        inside = Path(folder)
        yield from (inside / name for name in names)
        yield from (inside / name for name in folders if (inside / name).is_symlink())


def _is_shard(path: Path, root: Path) -> bool:
    """Whether the file is a webdataset shard, which is unpacked to a folder of its own."""
    return path.parent == root and path.suffix.lower() == ".tar" and path.is_file() and not is_ignored(path.name)


def source_labels(sources: Sequence[str | Path]) -> list[str]:
    """Return the beginning of the file names of each source: "" for a single source, otherwise a unique name."""
    if len(sources) == 1:
        return [""]
    names = [_last_parts(source, 1) for source in sources]
    if len(set(names)) < len(names):
        names = [_last_parts(source, 2) for source in sources]
    seen: Counter[str] = Counter()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(f"{name} ({seen[name]})/" if seen[name] > 1 else f"{name}/")
    return labels


def _last_parts(source: str | Path, count: int) -> str:
    """Return the last `count` parts of a path or URL: its name, or with 2 its folder and name."""
    text = shown(str(source)) if is_url(str(source)) else re.sub(r"^[a-z0-9]+:/*", "", str(source))
    return "/".join(Path(text).parts[-count:]).strip("/") or text

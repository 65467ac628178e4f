"""Unpacks the uploads to local folders: archives, folders, URLs, webdataset shards."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fetching.download import download, is_url, shown
from fetching.errors import DownloadError, DownloadTooLarge
from preprocess.errors import DatasetError
from preprocess.uploads.archive import ArchiveLimits, is_ignored, unpack
from preprocess.workers.workers import SINGLE_PROCESS, Work, Workers

LONGEST_NAME = 60
"""Longest file name of a download, in characters: file systems allow 255 bytes."""


@dataclass(frozen=True)
class FoundFile:
    """A file of the user's. `name`: its path relative to the given data, for messages. `root`: the folder of that
    data."""

    path: Path
    name: str
    root: Path


@dataclass(frozen=True)
class Unpack:
    """Unpacks an archive, as picklable function of workers."""

    limits: ArchiveLimits

    def __call__(self, archive: tuple[Path, Path]) -> None:
        """Unpack (archive, destination folder). Raises DatasetError."""
        unpack(*archive, self.limits)


def take_in(
    sources: Sequence[str | Path],
    scratch: Path,
    limits: ArchiveLimits,
    workers: Workers = SINGLE_PROCESS,
    num_workers: int | None = None,
) -> list[FoundFile]:
    """Return all files of all sources in a stable order, without files of operating systems.

    With several sources, each file's name begins with the source's name. Raises DatasetError.
    """
    if not sources:
        raise DatasetError("no data was given: a zip, a tar, a folder of images, or a URL of one")
    folders: list[tuple[Path, str]] = []
    archives: list[tuple[Path, Path]] = []
    for index, (source, label) in enumerate(zip(sources, _labels(sources), strict=True)):
        room = scratch / str(index)
        room.mkdir(parents=True)
        for archive, folder, inner in _parts(source, room, limits):
            folders.append((folder, label + inner))
            if archive is not None:
                archives.append((archive, folder))
    beyond_first = [archive for archive, _ in archives[1:]]  # rank 0 unpacks the first one
    for _ in workers.map(Work.of(Unpack(limits), [scratch, *beyond_first]), archives, num_workers):
        pass
    return [
        FoundFile(file.path, beginning + file.name, file.root)
        for folder, beginning in folders
        for file in files_in(folder)
        if not _is_shard(file.path, folder)
    ]


def _parts(source: str | Path, room: Path, limits: ArchiveLimits) -> Iterator[tuple[Path | None, Path, str]]:
    """Yield the parts of a source: the archive or None, the folder of its files, and the prefix of their names."""
    path = Path(_fetch(str(source), room, limits) if is_url(str(source)) else source)
    if not path.is_dir():
        yield path, room / "files", ""
        return
    yield None, path, ""
    for shard in sorted(each for each in path.iterdir() if _is_shard(each, path)):
        yield shard, room / shard.stem, f"{shard.name}/"


def _fetch(url: str, room: Path, limits: ArchiveLimits) -> Path:
    name = Path(urlsplit(url).path).name.strip(".")[-LONGEST_NAME:] if not url.startswith("data:") else ""
    target = room / "download" / (name or "download")
    target.parent.mkdir()
    try:
        return download(url, target, max_bytes=limits.total_bytes).path
    except DownloadTooLarge as error:
        raise DatasetError(f"{error}. Give less at once, or raise max_archive_bytes.") from error
    except DownloadError as error:
        raise DatasetError(f"{error}. Check the address, or download the file yourself.") from error


def files_in(root: Path) -> list[FoundFile]:
    """Files, also what links lead to; links to folders stand for themselves, for they may lead round in circles."""
    found = []
    for path in sorted(_below(root)):
        name = path.relative_to(root).as_posix()
        if not is_ignored(name):
            found.append(FoundFile(path, name, root))
    return found


def _below(root: Path) -> Iterator[Path]:
    """Yield every path below the folder that is not a folder."""

    def fail(error: OSError) -> None:
        raise DatasetError(
            f"{error.filename}: cannot be read ({error.strerror}). Give the right to read it."
        ) from error

    for folder, folders, names in os.walk(root, onerror=fail):
        inside = Path(folder)
        yield from (inside / name for name in names)
        yield from (inside / name for name in folders if (inside / name).is_symlink())


def _is_shard(path: Path, root: Path) -> bool:
    """Whether the file is a webdataset shard, which is unpacked to a folder of its own."""
    return path.parent == root and path.suffix.lower() == ".tar" and path.is_file() and not is_ignored(path.name)


def _labels(sources: Sequence[str | Path]) -> list[str]:
    """Return the prefix of each source's file names: "" for a single source, else a unique name."""
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
    """Return the last `count` components of a path or URL."""
    text = shown(str(source)) if is_url(str(source)) else str(source)
    return "/".join(Path(text).parts[-count:]).strip("/") or text

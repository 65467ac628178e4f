"""What the user gave, as folders on this disk: archives, folders, URLs, several of them, webdataset shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fetching.download import DownloadError, download, is_url, shown
from preprocess.archive import ArchiveLimits, is_archive_name, is_ignored, unpack
from preprocess.errors import DatasetError


@dataclass(frozen=True)
class FoundFile:
    """A file of the user's. `name`: how the user knows it, relative to what was given. `root`: the folder of that."""

    path: Path
    name: str
    root: Path


def take_in(sources: Sequence[str | Path], scratch: Path, limits: ArchiveLimits) -> list[FoundFile]:
    """All files of all sources, in a stable order; what operating systems leave behind is passed over.

    With several sources, each file's name begins with the source's name. Raises DatasetError.
    """
    if not sources:
        raise DatasetError("no data was given: a zip, a tar, a folder of images, or a URL of one")
    found: list[FoundFile] = []
    for index, source in enumerate(sources):
        room = scratch / str(index)
        room.mkdir(parents=True)
        label = f"{_short_name(source)}/" if len(sources) > 1 else ""
        for root, inner in _open(source, room, limits):
            found += [FoundFile(file.path, label + inner + file.name, file.root) for file in _files(root)]
    return found


def _open(source: str | Path, room: Path, limits: ArchiveLimits) -> list[tuple[Path, str]]:
    """The folders that one source consists of, and the names that their files' names begin with."""
    path = Path(_fetch(str(source), room, limits) if is_url(str(source)) else source)
    folder = unpack(path, room / "files", limits)
    if folder != path:
        return [(folder, "")]
    shards = sorted(shard for shard in folder.iterdir() if shard.suffix.lower() == ".tar" and shard.is_file())
    unpacked = [(unpack(shard, room / shard.stem, limits), f"{shard.name}/") for shard in shards]
    return [(folder, ""), *unpacked]


def _fetch(url: str, room: Path, limits: ArchiveLimits) -> Path:
    name = Path(urlsplit(url).path).name if not url.startswith("data:") else ""
    try:
        return download(url, room / (name or "download"), allow_http=True, max_bytes=limits.total_bytes)
    except DownloadError as error:
        raise DatasetError(f"{error}. Check the address, or download the file yourself.") from error


def _files(root: Path) -> list[FoundFile]:
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not is_ignored(name) and not _is_shard(path, root):
            found.append(FoundFile(path, name, root))
    return found


def _is_shard(path: Path, root: Path) -> bool:
    """Whether the file was taken in as a folder of its own."""
    return path.parent == root and path.suffix.lower() == ".tar" and is_archive_name(path.name)


def _short_name(source: str | Path) -> str:
    text = shown(str(source)) if is_url(str(source)) else str(source)
    return Path(text).name or text

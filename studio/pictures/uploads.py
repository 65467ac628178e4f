"""Converts uploaded files to sources of data preparation: loose files together as a folder, each archive by itself."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from preprocess.errors import DatasetError
from preprocess.uploads.archive import ArchiveLimits, is_archive_name
from preprocess.uploads.given_data import require_safe_archives
from settings.preparation import DataConfig


def store(files: Sequence[Path], folder: Path, config: DataConfig) -> list[Path]:
    """Copy `files` into the new folder, and return the sources. Files of one name are numbered.

    Raises DatasetError without files, and for an archive that is not safe to unpack.
    """
    if not files:
        raise DatasetError("there are no files; upload images, or a zip of them")
    archives = [path for path in files if is_archive_name(path.name)]
    require_safe_archives(archives, ArchiveLimits.of(config))
    loose = folder / "files"
    loose.mkdir(parents=True)
    for path in files:
        if path not in archives:
            shutil.copyfile(path, _free(loose, path.name))
    sources = [loose] if len(archives) < len(files) else []
    for path in archives:
        target = _free(folder, path.name)
        shutil.copyfile(path, target)
        sources.append(target)
    return sources


def _free(folder: Path, name: str) -> Path:
    path = folder / name
    number = 2
    while path.exists():
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
        number += 1
    return path

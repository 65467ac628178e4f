"""Checks the sources of a command before slow imports such as torch."""

from collections.abc import Sequence
from pathlib import Path

from fetching.download import is_url
from preprocess.errors import DatasetError
from preprocess.uploads.archive import ArchiveLimits, require_safe


def require_present(sources: Sequence[str | Path]) -> None:
    """Raises DatasetError for a path that does not exist."""
    for source in sources:
        if not is_url(str(source)) and not Path(source).exists():
            raise DatasetError(f"data: {source} does not exist. Give a zip, a tar, a folder of images, or a URL.")


def require_safe_archives(sources: Sequence[str | Path], limits: ArchiveLimits) -> None:
    """Check that archives are safe to unpack. Folders and URLs are checked during preparation. Raises DatasetError."""
    for source in sources:
        if not is_url(str(source)) and Path(source).is_file():
            require_safe(Path(source), limits)

"""Checks the sources of a command before slow imports such as torch."""

from collections.abc import Sequence
from pathlib import Path

from fetching.download import is_url
from preprocess.errors import DatasetError
from preprocess.sources.references import HubReference, is_hub, is_store, is_table, require_url
from preprocess.uploads.archive import ArchiveLimits, require_safe


def require_present(sources: Sequence[str | Path]) -> None:
    """Raises DatasetError for a path that does not exist, and for a dataset's name or a URL that is not well formed."""
    for source in sources:
        text = str(source)
        if is_hub(text):
            HubReference.parse(text)
        elif is_url(text):
            require_url(text)
        elif not is_store(text) and not Path(source).exists():
            raise DatasetError(
                f"data: {source} does not exist. Give a zip, a tar, a folder of images, a URL, or hf://owner/name."
            )


def require_safe_archives(sources: Sequence[str | Path], limits: ArchiveLimits) -> None:
    """Check that archives are safe to unpack. Folders and URLs are checked during preparation. Raises DatasetError."""
    for source in sources:
        path = Path(source)
        if not is_url(str(source)) and path.is_file() and not is_table(path):
            require_safe(path, limits)

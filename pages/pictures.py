"""Images embedded in a page as WebP data URIs, no larger than they are shown."""

import io
from pathlib import Path

from PIL import Image

from pages.shell import data_uri

SAMPLE_SIDE = 512
THUMBNAIL_SIDE = 160
QUALITY = 82


def picture_uri(path: Path, side: int = SAMPLE_SIDE) -> str:
    """Return an image file as a data URI, its longest side at most `side` pixels. Raises OSError when it cannot be
    read."""
    with Image.open(path) as picture:
        return image_uri(picture, side)


def image_uri(picture: Image.Image, side: int = SAMPLE_SIDE) -> str:
    """As `picture_uri`, for an image in memory."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return data_uri(buffer.getvalue())


def sample_uris(folder: Path, limit: int = 64) -> list[str]:
    """Return the first PNG files of a folder as data URIs, in the order of their numbers; [] without a folder."""
    return [picture_uri(path) for path in numbered_pictures(folder)[:limit]]


def numbered_pictures(folder: Path) -> list[Path]:
    """Return the folder's PNG files in the order of their numbers: 00.png … 99.png, 100.png …; [] without a folder."""
    return sorted(folder.glob("*.png"), key=lambda path: (len(path.name), path.name))

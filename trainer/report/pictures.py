"""Pictures inside the page: WebP as data URIs, no larger than they are shown."""

import base64
import io
from pathlib import Path

from PIL import Image

SAMPLE_SIDE = 512
THUMBNAIL_SIDE = 160
QUALITY = 82


def picture_uri(path: Path, side: int = SAMPLE_SIDE) -> str:
    """The picture, its longest side at most `side` pixels. Raises OSError when it cannot be read."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def sample_uris(folder: Path, limit: int = 64) -> list[str]:
    """The folder's PNGs in the order of their names; none where there is no folder."""
    return [picture_uri(path) for path in sorted(folder.glob("*.png"))[:limit]]

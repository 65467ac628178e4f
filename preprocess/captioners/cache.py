"""Caches captions on disk, so that each image is captioned once."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from PIL import Image

from preprocess.captioners.captioner import CaptionerError

FORMAT = 1  # raised when a model would answer the same prompt differently: other decoding, other length


def pixel_digest(image: Image.Image) -> str:
    """Return 64 hex digits over size and RGB pixels. Equal images have equal digests, whatever their file names are."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CaptionCache:
    """Captions in one JSON file per image, model and prompt in `folder`, which is created on the first write."""

    folder: Path

    def read(self, pixels: str, model_id: str, prompt: str) -> str | None:
        """Return the caption of the image with the digest `pixels`, None when it is missing or damaged."""
        key = _key(pixels, model_id, prompt)
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        caption = entry.pop("caption", None) if isinstance(entry, dict) else None
        return caption if isinstance(caption, str) and entry == key else None

    def write(self, pixels: str, model_id: str, prompt: str, caption: str) -> None:
        """Store a caption, by an atomic rename. Raises CaptionerError when it cannot be written."""
        key = _key(pixels, model_id, prompt)
        partial = self.folder / f"{uuid4().hex}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps({**key, "caption": caption}, ensure_ascii=False, indent=2), "utf-8")
                partial.replace(self._path(key))
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise CaptionerError(
                f"{self.folder}: captions cannot be cached there ({error}). Set another cache folder (CAPTION_CACHE)."
            ) from error

    def _path(self, key: dict[str, str | int]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.json"


def _key(pixels: str, model_id: str, prompt: str) -> dict[str, str | int]:
    return {"format": FORMAT, "model_id": model_id, "prompt": prompt, "pixels": pixels}

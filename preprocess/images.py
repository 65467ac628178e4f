"""Decodes one image file into RGB, the way its maker saw it."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from preprocess.errors import DatasetError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"}
MAX_PIXELS = 200_000_000
MIN_SIDE = 16


def decode(path: Path) -> Image.Image:
    """The image in RGB: EXIF orientation applied, colours in sRGB, 16-bit scaled, alpha laid on white, frame 0.

    Raises DatasetError naming the file and what is wrong with it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DatasetError(f"{path.name}: {image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
                image.load()
                rgb = _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path.name}: not an image, whatever its name says") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{path.name}: too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path.name}: damaged or cut off ({error})") from error
    if min(rgb.size) < MIN_SIDE:
        raise DatasetError(f"{path.name}: {rgb.width}×{rgb.height} is too small to learn from (at least {MIN_SIDE})")
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _to_srgb(image)
    if image.mode.startswith("I"):  # 16-bit grey: convert() alone would clip to white
        values = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((values / 257.0).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        return (
            ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            or image
        )
    except ImageCms.PyCMSError:
        warnings.warn("an embedded colour profile is damaged; the colours are taken as sRGB", stacklevel=2)
        return image

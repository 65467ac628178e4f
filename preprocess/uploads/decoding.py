"""Decodes an image file to RGB, with EXIF orientation and colour profile applied."""

import importlib
import io
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from preprocess.errors import DatasetError

IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff", ".gif",
    ".jxl",
}  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "TIFF", "GIF", "JXL")
"""Pillow's names. No other format is opened, whatever a file's name is: EPS, for example, is an executable program."""
BACKGROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128)}
UNIFORM_ALPHA = 255
Image.MAX_IMAGE_PIXELS = None  # DecodeRules.max_pixels is checked before decoding instead
register_heif_opener()  # the format of many phones
with suppress(ImportError):  # pillow-jxl-plugin, which registers itself on import
    importlib.import_module("pillow_jxl")
JPEG_XL_SUFFIX = ".jxl"
JPEG_XL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")


@dataclass(frozen=True)
class DecodeRules:
    """`transparency`: the background of transparent parts, white or grey. Sizes in pixels."""

    min_side: int = 16
    max_pixels: int = 200_000_000
    transparency: str = "white"


@dataclass(frozen=True)
class Picture:
    """A decoded file. `opacity`: mode "L", 255 where opaque; None for an opaque image. `notes`: unusual properties."""

    image: Image.Image
    opacity: Image.Image | None
    notes: tuple[str, ...]


def upright_in_8_bits(image: Image.Image) -> Image.Image:
    """Return a loaded image with EXIF orientation applied, in 8 bits, with its transparency.

    Raises ValueError for a colour model that Pillow cannot convert.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(upright)[0])
    return upright if upright.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK") else upright.convert("RGBA")


def is_image_name(path: Path) -> bool:
    """Whether the file name has the suffix of a supported image format."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_image_content(path: Path) -> bool:
    """Whether the content of a file is an image, whatever its name is. Reads its first bytes."""
    try:
        with Image.open(path, formats=readable_formats()):
            return True
    except Exception:  # Pillow's plugins may raise any exception for unreadable files
        return False


def decode(path: Path, rules: DecodeRules | None = None) -> Picture:
    """Return the image in RGB: EXIF orientation applied, colours in sRGB, 16-bit scaled, frame 0.

    Raises DatasetError with the file name and the reason.
    """
    rules = rules or DecodeRules()
    upright, notes = _load(path, rules)
    picture = _picture(path, upright, rules, notes)
    extrema: Any = picture.image.getextrema()  # a pair for each channel
    if all(low == high for low, high in extrema):
        picture = replace(
            picture, notes=(*picture.notes, f"{path.name}: has a single colour; check that it is not damaged")
        )
    if min(picture.image.size) < rules.min_side:
        size = f"{picture.image.width}×{picture.image.height}"
        raise DatasetError(f"{path.name}: {size} is too small (min_image_side is {rules.min_side})")
    return picture


def load_upright(path: Path) -> Image.Image:
    """Return an image in its file's own mode, as for masks. Raises DatasetError."""
    return _load(path, DecodeRules())[0]


def _load(path: Path, rules: DecodeRules) -> tuple[Image.Image, list[str]]:
    """Return the image in its file's mode, with EXIF orientation applied, and notes on unusual properties."""
    if path.stat().st_size == 0:
        raise DatasetError(f"{path.name}: the file is empty (0 bytes). Upload it again.")
    _require_jpeg_xl(path)
    try:
        with Image.open(path, formats=readable_formats()) as image:
            if image.width * image.height > rules.max_pixels:  # known from the header, before decoding
                raise DatasetError(
                    f"{path.name}: {image.width}×{image.height} pixels are more than {rules.max_pixels:,}; "
                    "reduce it, or increase max_image_pixels"
                )
            notes = _notes(path, image)
            image.load()
            return ImageOps.exif_transpose(image), notes
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(f"{path.name}: is not an image, or has a format that is not supported") from error
    except Exception as error:  # Pillow's plugins raise nearly any exception for a damaged file
        raise DatasetError(f"{path.name}: is damaged or truncated ({error}). Export it again.") from error


def readable_formats() -> list[str]:
    """Return Pillow's names of the formats in FORMATS that it can read here."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _require_jpeg_xl(path: Path) -> None:
    """Raises DatasetError for a JPEG XL file when no plugin can read it."""
    if "JXL" in Image.OPEN:
        return
    with path.open("rb") as file:
        start = file.read(max(map(len, JPEG_XL_STARTS)))
    if start.startswith(JPEG_XL_STARTS):
        raise DatasetError(
            f"{path.name}: JPEG XL needs a package that is not installed: pip install pillow-jxl-plugin, "
            "or export the image as PNG."
        )


def _notes(path: Path, image: Image.Image) -> list[str]:
    if image.format == "MPO":  # a photograph followed by its preview or depth map, as phones write them
        return []
    frames = getattr(image, "n_frames", 1)
    return [f"{path.name}: only the first of its {frames} frames is used"] if frames > 1 else []


def _picture(path: Path, image: Image.Image, rules: DecodeRules, notes: list[str]) -> Picture:
    opacity = _opacity(image)
    if image.mode.startswith(("I", "F")) and (note := _to_8_bits(image)[1]):
        notes.append(f"{path.name}: {note}")
    flat = _flatten(image, opacity, BACKGROUNDS[rules.transparency])
    try:
        flat = _to_srgb(flat, image.info.get("icc_profile"))
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"{path.name}: its colour profile is damaged ({error}); it is decoded as sRGB")
    return Picture(flat.convert("RGB"), opacity, tuple(notes))


def _opacity(image: Image.Image) -> Image.Image | None:
    """Return the alpha channel as "L"; None where there is none, or all pixels are opaque."""
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema()[0] == UNIFORM_ALPHA else alpha


def _flatten(image: Image.Image, opacity: Image.Image | None, background: tuple[int, int, int]) -> Image.Image:
    """Remove alpha, palette and 16 bits: the result is RGB, CMYK, LAB or L."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(image)[0])
    if opacity is not None:
        colours = image.convert("RGBA").convert("RGB")
        return Image.composite(colours, Image.new("RGB", image.size, background), opacity)
    return image if image.mode in ("RGB", "CMYK", "L", "LAB") else image.convert("RGBA").convert("RGB")


def _to_8_bits(image: Image.Image) -> tuple[np.ndarray, str]:
    """Convert 16-bit, 32-bit and float grey to 8 bits, with a note on assumptions. Pillow's convert() clips values
    above 255.

    Values outside the usual ranges (0 to 1, 8 and 16 bits) are scaled from their minimum to their maximum: scientific
    images and cameras use 10 to 14 bits, and HDR values have no upper limit.
    """
    read = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(read, posinf=0.0, neginf=0.0)
    lost = int((~np.isfinite(read)).sum())
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    usual = _usual_range(image.mode, low, high)
    if usual is None:
        low = float(values.min()) if low < 0 else 0.0
        note = f"its values range from {low:g} to {high:g}; they are scaled to 0 to 255"
    else:
        low, high, note = 0.0, usual, ""
    if lost:
        black = f"{lost} of its values are not finite, and are set to 0"
        note = f"{note}; {black}" if note else black
    return ((values - low) / ((high - low) or 1.0) * 255.0).clip(0, 255).round().astype(np.uint8), note


def _usual_range(mode: str, low: float, high: float) -> float | None:
    """Return the value of white where the values fill a usual range, else None."""
    if low < 0:
        return None
    if mode == "F":
        ranges = ((1.0, 0.0), (255.0, 32.0), (65535.0, 16384.0))
        return next((white for white, least in ranges if least <= high <= white), None)
    return 255.0 if high <= 255 else 65535.0 if 16384 <= high <= 65535 else None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB. A profile for another colour model is ignored. Raises PyCMSError or OSError for a damaged
    profile."""
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}[image.mode]:
        return image
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return converted or image

"""Writes images with their generation parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

OUTPUT_FORMATS = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}
"""File suffixes with Pillow's names of the formats."""


def save_images(
    images: Mapping[int, Image.Image],
    folder: Path,
    parameters: Mapping[int, str],
    output_format: str,
    output_quality: int,
) -> list[Path]:
    """Write the images to `folder`, named by their numbers, and return their paths. `output_quality`: 1 to 100.

    `parameters` by the same numbers are stored where A1111 stores them: in PNG's text chunk `parameters`, else in
    EXIF's UserComment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {number: folder / f"{number:02d}.{output_format}" for number in images}
    for number, image in images.items():
        options: dict[str, Any]
        if output_format == "png":
            options = {"pnginfo": _png_text(parameters[number])}
        else:
            options = {"exif": _exif_comment(parameters[number]), "quality": output_quality}
        image.save(paths[number], OUTPUT_FORMATS[output_format], **options)
    return list(paths.values())


def read_parameters(path: Path) -> str:
    """Read the generation parameters from an image file; "" where there are none."""
    with Image.open(path) as image:
        if "parameters" in image.info:
            return str(image.info["parameters"])
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    return comment[8:].decode("utf-16-be") if comment[:8] == b"UNICODE\0" else ""


def _png_text(text: str) -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", text)
    return info


def _exif_comment(text: str) -> Image.Exif:
    """Encode EXIF's UserComment (2.32 §4.6.5): eight bytes name the encoding, then UTF-16 in A1111's byte order
    (big-endian)."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif

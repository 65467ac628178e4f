"""Writes images with the parameters that made them inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

OUTPUT_FORMATS = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}
"""Names of formats with what Pillow calls them."""


def save_images(
    images: Sequence[Image.Image], folder: Path, parameters: Sequence[str], output_format: str, output_quality: int
) -> list[Path]:
    """Write the images, numbered in the order of their seeds, and give their paths. `output_quality`: 1 to 100.

    `parameters` stand where A1111 writes them: PNG's text chunk `parameters`, else EXIF's UserComment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02d}.{output_format}" for index in range(len(images))]
    for image, path, text in zip(images, paths, parameters, strict=True):
        options: dict[str, Any]
        if output_format == "png":
            options = {"pnginfo": _png_text(text)}
        else:
            options = {"exif": _exif_comment(text), "quality": output_quality}
        image.save(path, OUTPUT_FORMATS[output_format], **options)
    return paths


def read_parameters(path: Path) -> str:
    """What `save_images` wrote into the file; "" where there is nothing."""
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
    """EXIF 2.32 §4.6.5: eight bytes name the encoding; UTF-16, big-endian as A1111 writes it."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif

"""Fits the input image and mask to sizes that the base model supports, and warns about unusable masks."""

import math

from PIL import Image, ImageOps

from families.family import ModelFamily
from sampler.request import MAX_SIDE, NATIVE_RATIO, SampleRequest


def drawn_size(request: SampleRequest, family: ModelFamily) -> tuple[int, int]:
    """Return the output size (width, height) in pixels.

    It is the requested size, else the requested aspect ratio or that of the input image at the area of the base's
    native resolution, else the native resolution. No side is longer than the base has positions for: a long input image
    is cropped.
    """
    native, multiple = family.native_resolution, family.size_multiple
    if request.aspect_ratio != NATIVE_RATIO:
        return size_of_ratio(request.aspect_ratio, family)
    picture = request.image
    if picture is None and request.control is not None:
        picture = request.control.picture
    if picture is None:
        return request.width or native, request.height or native
    width, height = ImageOps.exif_transpose(picture).size
    if request.width and request.height:
        return request.width, request.height
    if request.width or request.height:
        scale = request.width / width if request.width else (request.height or native) / height
    else:
        scale = min(1.0, math.sqrt(native * native / (width * height)))  # small images are not enlarged
        scale = max(scale, multiple / min(width, height))
    longest = min(MAX_SIDE, family.largest_side or MAX_SIDE) // multiple * multiple
    fitted = [min(longest, max(multiple, round(side * scale / multiple) * multiple)) for side in (width, height)]
    return request.width or fitted[0], request.height or fitted[1]


def size_of_ratio(aspect_ratio: str, family: ModelFamily) -> tuple[int, int]:
    """Return (width, height) in pixels for "width:height": about the native area, in multiples that the base draws, no
    side longer than it has positions for."""
    across, down = map(int, aspect_ratio.split(":"))
    multiple, largest = family.size_multiple, min(MAX_SIDE, family.largest_side or MAX_SIDE)
    scale = min(family.native_resolution / math.sqrt(across * down), largest / max(across, down))
    width, height = (max(multiple, round(part * scale / multiple) * multiple) for part in (across, down))
    return min(width, largest // multiple * multiple), min(height, largest // multiple * multiple)


def fitted_picture(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image in RGB, with EXIF orientation applied, transparency on white, scaled to cover `size` and cropped
    at the centre."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return ImageOps.fit(upright.convert("RGB"), size, Image.Resampling.LANCZOS)


def fitted_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the mask in one channel, 0 or 255, scaled and cropped like the image."""
    return ImageOps.fit(ImageOps.exif_transpose(mask).convert("L"), size, Image.Resampling.NEAREST).point(
        lambda value: 255 if value >= 128 else 0
    )


def mask_notes(mask: Image.Image | None, size: tuple[int, int]) -> list[str]:
    """Return warnings for a mask that has only one value at `size` (width, height)."""
    if mask is None:
        return []
    low, high = fitted_mask(mask, size).getextrema()
    if high == 0:
        return ["mask: is completely black, so nothing is generated. White marks the area to generate"]
    if low == 255:
        return ["mask: is completely white, so the whole image is generated. Black marks the area to keep"]
    return []

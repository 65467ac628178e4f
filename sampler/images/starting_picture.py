"""Fits the user's image and mask to sizes that the base supports, and warns about unusable masks."""

import math

from PIL import Image, ImageOps

from families.family import ModelFamily
from sampler.request import SampleRequest


def drawn_size(request: SampleRequest, family: ModelFamily) -> tuple[int, int]:
    """Return the output size (width, height) in pixels.

    It is the requested size, else the aspect ratio of the input image at the area of the base's native resolution, else
    the native resolution.
    """
    native, multiple = family.native_resolution, family.size_multiple
    picture = request.image
    if picture is None and request.control is not None:
        picture = ImageOps.exif_transpose(request.control.picture)
    if picture is None:
        return request.width or native, request.height or native
    width, height = picture.size
    if request.width and request.height:
        return request.width, request.height
    if request.width or request.height:
        scale = request.width / width if request.width else (request.height or native) / height
    else:
        scale = min(1.0, math.sqrt(native * native / (width * height)))  # small images are not enlarged
        scale = max(scale, multiple / min(width, height))
    sides = (max(multiple, round(side * scale / multiple) * multiple) for side in (width, height))
    fitted = tuple(sides)
    return request.width or fitted[0], request.height or fitted[1]


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
        return ["mask: is black throughout, so nothing is drawn anew. White marks what shall change"]
    if low == 255:
        return ["mask: is white throughout, so all of the picture is drawn anew. Black marks what shall stay"]
    return []

"""Sizes at which images are trained."""

import re
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from settings.callers import Limited, Model, Open
from settings.record import Settings

Side = Annotated[int, Field(ge=32, le=4096)]
ONE_SIDE = TypeAdapter(Side)
MOST_RESOLUTIONS = 8
MOST_RATIO = 8
RATIO = re.compile(r"([1-9]\d{0,3})[/:]([1-9]\d{0,3})")


class SizeSection(Settings):
    """Resolutions and aspect ratios of the training images."""

    resolution: Limited[Side | tuple[Side, ...] | None] = Field(
        None,
        description="Side in pixels of a square of the training area; by default the base model's native resolution. "
        "Several, such as 512,768,1024: each image is trained at each of them, unless it is too small",
    )
    aspect_ratio_bucketing: Open[bool] = Field(
        True, description="Train each image near its own aspect ratio (1:4 to 4:1); otherwise all images are square"
    )
    aspect_ratios: Open[tuple[str, ...]] = Field(
        (),
        max_length=32,
        description="Train only with these aspect ratios and their inverses, such as 1/1 and 3/4: up to 1:8; by "
        "default the few that fit the images best",
    )
    bucket_step: Open[int | None] = Field(
        None, ge=8, le=512, description="Sides of buckets are multiples of this; by default a 16th of the resolution"
    )
    max_extra_crop: Open[float | None] = Field(
        None,
        ge=0,
        le=0.5,
        description="Additional share of an image that may be cropped to reduce the number of buckets; by default "
        "0.06 up to 100 images, 0.03 above",
    )
    upscaler: Model[str | None] = Field(
        None,
        min_length=1,
        description="Swin2SR model (hub id or folder) that enlarges images smaller than their bucket, such as "
        "caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr; by default they are trained at a smaller size",
    )

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_side_or_several(cls, given: Any) -> Any:
        return None if given is None else read_sides(given)

    @field_validator("aspect_ratios")
    @classmethod
    def _ratios(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            read_ratio(text)
        return given

    @model_validator(mode="after")
    def _ratios_of_buckets(self) -> "SizeSection":
        if self.aspect_ratios and not self.aspect_ratio_bucketing:
            raise ValueError("aspect_ratios have no effect without aspect_ratio_bucketing; leave one of them out")
        return self

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The sides of the trained areas, the smallest first; () for the base's own."""
        if self.resolution is None:
            return ()
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution,)

    @property
    def largest_resolution(self) -> int | None:
        """The side of samples; None for the base's own."""
        return max(self.resolutions, default=None)


def read_ratio(text: str) -> float:
    """Width by height of "3/4" or "3:4". Raises ValueError for anything else, and beyond 1:8."""
    found = RATIO.fullmatch(text.strip())
    ratio = int(found[1]) / int(found[2]) if found else 0.0
    if not 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        raise ValueError(f"{text!r} is not an aspect ratio from 1/{MOST_RATIO} to {MOST_RATIO}/1, such as 3/4")
    return ratio


def read_sides(given: Any) -> int | tuple[int, ...]:
    """One side, or several, the smallest first and each once: a number, a list, or "512,768" as on a command line.

    Raises ValueError for anything else.
    """
    listed = re.split(r"[,\s]+", given.strip(" [](),")) if isinstance(given, str) else given
    sides = listed if isinstance(listed, list | tuple) else [listed]
    if not 0 < len(sides) <= MOST_RESOLUTIONS:
        raise ValueError(f"give one side, or up to {MOST_RESOLUTIONS}, such as [512, 768, 1024]")
    try:
        distinct = tuple(sorted({ONE_SIDE.validate_python(side) for side in sides}))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None
    return distinct[0] if len(distinct) == 1 else distinct

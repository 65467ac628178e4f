"""Tests that every image is decoded as its author saw it, or refused by name."""

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from preprocess.errors import DatasetError
from preprocess.uploads.decoding import DecodeRules, decode
from tests.preprocess.uploads.ugly_uploads.making import picture

RED = (255, 0, 0)


def pixel(image: Image.Image, at: tuple[int, int] = (5, 5)) -> tuple[int, ...]:
    value = image.getpixel(at)
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif", "avif"])
def test_common_formats(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"red.{suffix}"
    Image.new("RGB", (40, 30), RED).save(path)
    image = decode(path).image
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.subtract(pixel(image), RED)).max() <= 4


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste(RED, (0, 0, 20, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # to be rotated by 90° clockwise for display
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = decode(tmp_path / "turned.jpg").image
    assert upright.size == (20, 40)
    assert pixel(upright, (10, 5))[1] < 60 < pixel(upright, (10, 35))[1]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert pixel(decode(tmp_path / "deep.png").image) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    if mode == "P":
        image = image.convert("P")
        image.save(tmp_path / "clear.png", transparency=image.getpixel((0, 0)))
    else:
        image.convert(mode).save(tmp_path / "clear.png")
    assert pixel(decode(tmp_path / "clear.png").image) == (255, 255, 255)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    assert pixel(decode(tmp_path / "print.jpg").image)[0] > 150


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("I am no image")
    with pytest.raises(DatasetError, match=r"text\.jpg: is not an image, or has a format"):
        decode(tmp_path / "text.jpg")


def test_a_cut_off_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r"cut\.jpg: is damaged or truncated"):
        decode(tmp_path / "cut.jpg")


def test_a_tiny_image_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 400)).save(tmp_path / "tiny.png")
    with pytest.raises(DatasetError, match=r"tiny\.png: 4×400 is too small"):
        decode(tmp_path / "tiny.png")


def test_a_decompression_bomb_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
    with pytest.raises(DatasetError, match=r"bomb\.png: 100×100 pixels are more than 1,000"):
        decode(tmp_path / "bomb.png", DecodeRules(max_pixels=1000))
    assert decode(tmp_path / "bomb.png", DecodeRules(max_pixels=10_000)).image.size == (100, 100)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "TIFF", "GIF"])
def test_damage_of_any_kind_is_a_refusal(kind: str, tmp_path: Path) -> None:
    """Bytes are changed, and the file may be truncated. Decoding gives an image or a DatasetError, nothing else."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    whole = picture((40, 30), 0, "RGB", kind, **options)
    rng = random.Random(kind)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(min(len(whole), 400))] = rng.randrange(256)
        (tmp_path / "a.jpg").write_bytes(damaged[: rng.choice([len(whole), rng.randrange(1, len(whole))])])
        with contextlib.suppress(DatasetError):
            assert decode(tmp_path / "a.jpg", DecodeRules(max_pixels=10_000)).image.mode == "RGB"

"""Functions that make the images and archives of the ugly uploads."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import preprocess.uploads.decoding  # noqa: F401  brings the HEIF plugin

Files = Mapping[str, bytes]


def picture(
    size: tuple[int, int] = (128, 128), seed: int = 0, mode: str = "RGB", kind: str = "PNG", **options: object
) -> bytes:
    """An image file for each seed: a few rectangles, so that no two seeds are near duplicates."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(0, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, width, height = rng.integers((0, 0, 5, 5), (*size, 60, 60)).tolist()
        colour = tuple(rng.integers(0, 255, 3).tolist())
        draw.rectangle((x, y, x + width, y + height), fill=colour)
    return saved(image.convert(mode), kind, **options)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_grey(kind: str = "PNG") -> bytes:
    return saved(Image.fromarray(np.linspace(0, 65535, 128 * 128).reshape(128, 128).astype(np.uint16)), kind)


def transparent(mode: str) -> bytes:
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse([30, 30, 90, 90], fill=(200, 30, 30, 255))
    return saved(image.convert(mode), "PNG")


def palette_with_alpha() -> bytes:
    """A PNG whose palette has an opacity for each colour, as pngquant writes it."""
    image = Image.open(io.BytesIO(picture(seed=6))).quantize(8)
    return saved(image, "PNG", transparency=bytes([0, 60, 120, 180, 240, 255, 255, 255]))


def deep_colour() -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.linspace(0, 65535, 128 * 128 * 3).reshape(128, 128 * 3).astype(">u2")
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 128, 128, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A PNG of `side`² black pixels in few bytes."""
    return saved(Image.new("1", (side, side)), "PNG")


def turned(orientation: int) -> bytes:
    image = Image.open(io.BytesIO(picture((200, 100), seed=orientation)))
    exif = image.getexif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", exif=exif, quality=95)


def animated(kind: str) -> bytes:
    frames = [Image.open(io.BytesIO(picture(seed=seed))) for seed in (1, 2, 3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def with_profile(profile: bytes) -> bytes:
    return picture(seed=4, icc_profile=profile)


def zipped(files: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def encrypted(files: Files) -> bytes:
    """A zip whose members are marked as encrypted."""
    data = bytearray(zipped(files))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 4)
    return bytes(data)


def of_macos(files: Files) -> bytes:
    """A zip with UTF-8 names but without the flag for them. Names of the same length are written, then replaced."""
    plain = {"n" * len(name.encode()): name for name in files}
    data = zipped({key: files[name] for key, name in plain.items()})
    for key, name in plain.items():
        data = data.replace(key.encode(), name.encode())
    return data


def with_large_file_records(files: Files) -> bytes:
    """A zip with zip64 records, as written by tools that do not know the size beforehand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return buffer.getvalue()


def with_link(name: str, aim: str) -> bytes:
    """A zip that contains a symbolic link, stored as by Info-ZIP with -y."""
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", A)
        archive.writestr(info, aim)
    return buffer.getvalue()


def tar_of(kind: bytes, name: str, aim: str = "") -> bytes:
    """A tar with one member of this kind: tarfile.SYMTYPE, LNKTYPE, CHRTYPE or FIFOTYPE."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, aim
        archive.addfile(info)
    return buffer.getvalue()


def shard(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


A, B, C = picture(seed=11), picture(seed=12), picture(seed=13)

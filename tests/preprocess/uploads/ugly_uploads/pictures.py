"""Cases of image files, of files that are only named like images, and of duplicates."""

import io

import numpy as np
from PIL import Image, ImageCms

from tests.preprocess.uploads.ugly_uploads.case import Case
from tests.preprocess.uploads.ugly_uploads.making import (
    A,
    B,
    C,
    animated,
    bomb,
    deep_colour,
    deep_grey,
    palette_with_alpha,
    picture,
    saved,
    transparent,
    turned,
    with_profile,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
PHOTOGRAPH = Image.fromarray(NOISE[:12, :12]).resize((200, 200), Image.Resampling.BICUBIC)
BOMB = bomb(14_200)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n0 0 99 99 rectfill showpage\n%%EOF\n"

DECODING = [
    *(
        Case(f"{kind} is read", {f"a.{suffix}": picture(kind=kind)}, 1, silent=True)
        for suffix, kind in [
            ("jpg", "JPEG"),
            ("png", "PNG"),
            ("webp", "WEBP"),
            ("avif", "AVIF"),
            ("bmp", "BMP"),
            ("tiff", "TIFF"),
            ("gif", "GIF"),
        ]
    ),
    Case("an upper-case suffix is read", {"a.JPG": picture(kind="JPEG")}, 1, silent=True),
    Case("JFIF is read", {"a.jfif": picture(kind="JPEG")}, 1, silent=True),
    *(
        Case(f"EXIF orientation {value} turns the picture", {"a.jpg": turned(value)}, 1, sizes=((88, 176),))
        for value in (6, 8)
    ),
    Case("EXIF orientation 3 keeps the aspect", {"a.jpg": turned(3)}, 1, sizes=((176, 88),)),
    Case("16-bit grey is read", {"a.png": deep_grey()}, 1, silent=True),
    Case("a palette is read", {"a.png": picture(mode="P")}, 1, silent=True),
    Case("grey is read", {"a.png": picture(mode="L")}, 1, silent=True),
    Case("one bit is read", {"a.png": picture(mode="1")}, 1, silent=True),
    Case("CMYK is read", {"a.jpg": picture(mode="CMYK", kind="JPEG")}, 1, silent=True),
    Case("alpha is laid on white", {"a.png": transparent("RGBA")}, 1, silent=True),
    Case("grey with alpha is laid on white", {"a.png": transparent("LA")}, 1, silent=True),
    Case("an ICC profile is applied", {"a.png": with_profile(SRGB)}, 1, silent=True),
    Case("a damaged ICC profile is named", {"a.png": with_profile(b"no profile")}, 1, "its colour profile is damaged"),
    Case(
        "of an animation the first frame is used",
        {"a.gif": animated("GIF")},
        1,
        "only the first of its 3 frames is used",
    ),
    Case("of an animated WebP too", {"a.webp": animated("WEBP")}, 1, "only the first of its 3 frames is used"),
    Case("of an animated PNG too", {"a.png": animated("PNG")}, 1, "only the first of its 3 frames is used"),
    Case("of a TIFF with pages too", {"a.tif": animated("TIFF")}, 1, "only the first of its 3 frames is used"),
    Case("a telephone's JPEG with pictures behind it is one picture", {"a.jpg": animated("MPO")}, 1, silent=True),
    Case("a palette with alpha is laid on white", {"a.png": palette_with_alpha()}, 1, silent=True),
    Case("16-bit colour is read", {"a.png": deep_colour()}, 1, silent=True),
    Case("16-bit grey TIFF is read", {"a.tif": deep_grey("TIFF")}, 1, silent=True),
    Case("CMYK TIFF is read", {"a.tif": picture(mode="CMYK", kind="TIFF")}, 1, silent=True),
    Case("a picture without a suffix is read", {"IMG_0001": picture()}, 1, silent=True),
    Case("a picture of a wrong suffix is read", {"a.png": picture(kind="JPEG")}, 1, silent=True),
    Case("a picture called .dat is read", {"a.dat": picture()}, 1, silent=True),
    Case("text called .jpg is refused", {"a.jpg": b"hello", "b.png": B}, 1, "a.jpg: is not an image, or has a format"),
    Case("an empty file is refused", {"a.jpg": b"", "b.png": B}, 1, "a.jpg: the file is empty (0 bytes)"),
    Case(
        "a cut-off JPEG is refused",
        {"a.jpg": saved(Image.fromarray(NOISE), "JPEG")[:4000], "b.png": B},
        1,
        "a.jpg: is damaged or truncated",
    ),
    Case(
        "a cut-off PNG is refused",
        {"a.png": saved(Image.fromarray(NOISE), "PNG")[:4000], "b.png": B},
        1,
        "a.png: is damaged or truncated",
    ),
    Case(
        "HTML saved as .webp is refused", {"a.webp": b"<!doctype html><html>", "b.png": B}, 1, "a.webp: is not an image"
    ),
    Case("HEIC is read", {"a.heic": picture(kind="HEIF")}, 1, silent=True),
    Case("damaged HEIC is refused", {"a.heic": b"\0\0\0\x18ftypheic", "b.png": B}, 1, "a.heic: "),
    Case("tiny pictures are refused", {"a.png": picture((9, 300)), "b.png": B}, 1, "a.png: 9×300 is too small"),
    Case(
        "a decompression bomb is refused",
        {"a.png": picture((300, 300)), "b.png": B},
        1,
        "a.png: 300×300 pixels are more than 50,000",
        options={"max_image_pixels": 50_000},
    ),
    Case(
        "small pictures are trained small, and named",
        {"a.png": picture((40, 40))},
        1,
        "40×40 is too small for the resolution 128; it is trained at 56×56",
        sizes=((56, 56),),
    ),
    Case(
        "a bomb of 200 million pixels is refused by its header",
        {"a.png": BOMB, "b.png": B},
        1,
        "a.png: 14200×14200 pixels are more than 200,000,000",
    ),
    Case(
        "PostScript is never run, whatever it is called",
        {"a.jpg": POSTSCRIPT, "b": POSTSCRIPT, "c.png": C},
        1,
        "a.jpg: is not an image, or has a format that is not supported",
    ),
    Case(
        "Photoshop's files are refused",
        {"a.psd": b"8BPS\0\1", "b.png": B},
        1,
        "a.psd: is neither an image in a supported format",
    ),
    Case(
        "a raw photograph is refused",
        {"a.CR2": b"II*\0\x10\0\0\0CR", "b.png": B},
        1,
        "a.CR2: is neither an image in a supported format",
    ),
    Case(
        "a picture that is transparent all over is refused",
        {"a.png": saved(Image.new("RGBA", (128, 128), (9, 9, 9, 0)), "PNG")},
        0,
        "a.png: is fully transparent",
        options={"mask": "alpha"},
    ),
    Case("alpha may be the mask", {"a.png": transparent("RGBA")}, 1, options={"mask": "alpha"}, silent=True),
    Case(
        "a video is refused",
        {"a.mp4": b"\0\0\0\x18ftypmp42", "b.png": B},
        1,
        "a.mp4: is neither an image in a supported format",
    ),
    Case("an SVG is refused", {"a.svg": b"<svg/>", "b.png": B}, 1, "a.svg: is neither an image in a supported format"),
]

DUPLICATES = [
    Case("an identical picture is trained once", {"a.png": A, "b.png": A}, 1, "b.png: has the same pixels as a.png"),
    Case(
        "the same pixels in another format are the same",
        {"a.png": A, "b.bmp": saved(Image.open(io.BytesIO(A)), "BMP")},
        1,
        "b.bmp: has the same pixels as a.png",
    ),
    Case("duplicates can be kept", {"a.png": A, "b.png": A}, 2, options={"duplicates": "keep"}),
    Case(
        "a copy saved anew is named",
        {"a.png": saved(PHOTOGRAPH, "PNG"), "b.jpg": saved(PHOTOGRAPH, "JPEG", quality=70)},
        2,
        "b.jpg: is a near duplicate of a.png",
    ),
]

"""What people upload, ugly things first: each case says what comes of it."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw

import preprocess.images  # noqa: F401  brings the HEIF plugin

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Case:
    """An upload. `kept`: how many images are trained; 0: an error. `says`: stands in a warning, a refusal or the error.

    `captions`: of the kept images, in order. `sizes`: trained sizes (width, height).
    """

    name: str
    files: Files
    kept: int
    says: str = ""
    captions: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    packed_as: str = "folder"
    silent: bool = False


def picture(
    size: tuple[int, int] = (128, 128), seed: int = 0, mode: str = "RGB", kind: str = "PNG", **options: object
) -> bytes:
    """A picture of its own for each seed: a few rectangles, so that no two are near duplicates."""
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


def deep_grey() -> bytes:
    return saved(Image.fromarray(np.linspace(0, 65535, 128 * 128).reshape(128, 128).astype(np.uint16)), "PNG")


def transparent(mode: str) -> bytes:
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse([30, 30, 90, 90], fill=(200, 30, 30, 255))
    return saved(image.convert(mode), "PNG")


def turned(orientation: int) -> bytes:
    image = Image.open(io.BytesIO(picture((200, 100), seed=orientation)))
    exif = image.getexif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", exif=exif, quality=95)


def animated() -> bytes:
    frames = [Image.open(io.BytesIO(picture(seed=seed))) for seed in (1, 2, 3)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def with_profile(profile: bytes) -> bytes:
    return picture(seed=4, icc_profile=profile)


def zipped(files: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
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
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
PHOTOGRAPH = Image.fromarray(NOISE[:12, :12]).resize((200, 200), Image.Resampling.BICUBIC)
LONG = " ".join(f"word{number}" for number in range(90))

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
    Case("of an animation the first frame is used", {"a.gif": animated()}, 1, "of its 3 frames, the first is used"),
    Case("a picture without a suffix is read", {"IMG_0001": picture()}, 1, silent=True),
    Case("a picture of a wrong suffix is read", {"a.png": picture(kind="JPEG")}, 1, silent=True),
    Case("a picture called .dat is read", {"a.dat": picture()}, 1, silent=True),
    Case("text called .jpg is refused", {"a.jpg": b"hello", "b.png": B}, 1, "a.jpg: not an image, whatever its name"),
    Case("an empty file is refused", {"a.jpg": b"", "b.png": B}, 1, "a.jpg: not an image, whatever its name says"),
    Case(
        "a cut-off JPEG is refused",
        {"a.jpg": saved(Image.fromarray(NOISE), "JPEG")[:4000], "b.png": B},
        1,
        "a.jpg: damaged or cut off",
    ),
    Case(
        "a cut-off PNG is refused",
        {"a.png": saved(Image.fromarray(NOISE), "PNG")[:4000], "b.png": B},
        1,
        "a.png: damaged or cut off",
    ),
    Case("HTML saved as .webp is refused", {"a.webp": b"<!doctype html><html>", "b.png": B}, 1, "a.webp: not an image"),
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
    Case("a video is refused", {"a.mp4": b"\0\0\0\x18ftypmp42", "b.png": B}, 1, "a.mp4: not an image format"),
    Case("an SVG is refused", {"a.svg": b"<svg/>", "b.png": B}, 1, "a.svg: not an image format"),
]

DUPLICATES = [
    Case("the very same picture is trained once", {"a.png": A, "b.png": A}, 1, "b.png: the very same picture as a.png"),
    Case(
        "the same pixels in another format are the same",
        {"a.png": A, "b.bmp": saved(Image.open(io.BytesIO(A)), "BMP")},
        1,
        "b.bmp: the very same picture as a.png",
    ),
    Case("duplicates can be kept", {"a.png": A, "b.png": A}, 2, options={"duplicates": "keep"}),
    Case(
        "a copy saved anew is named",
        {"a.png": saved(PHOTOGRAPH, "PNG"), "b.jpg": saved(PHOTOGRAPH, "JPEG", quality=70)},
        2,
        "b.jpg: nearly the same picture as a.png",
    ),
]

NAMES = [
    Case("one name in two folders gives two images", {"x/1.png": A, "y/1.png": B}, 2, silent=True),
    Case("one stem with two suffixes gives two images", {"1.png": A, "1.jpg": picture(kind="JPEG", seed=5)}, 2),
    Case("umlauts, emoji, quotes and spaces", {"Bild für Öma 🎈 'x' \"y\".png": A}, 1),
    Case("a name of only signs", {"___.png": A}, 1, silent=True),
    Case("a very long name", {"n" * 200 + ".png": A}, 1, silent=True),
    Case("backslashes are folders", {"x\\1.png": A, "x\\1.txt": b"a TOK"}, 1, captions=("a TOK",), packed_as="zip"),
    Case(
        "what systems leave is passed over",
        {"a.png": A, "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x"},
        1,
        silent=True,
    ),
]

CAPTIONS = [
    Case(
        "a text file beside the image",
        {"a.png": A, "a.txt": b"a TOK at sea"},
        1,
        captions=("a TOK at sea",),
        silent=True,
    ),
    Case("a .caption file", {"a.png": A, "a.caption": b"a TOK at sea"}, 1, captions=("a TOK at sea",), silent=True),
    Case(
        "caption.csv and captions.csv are both known",
        {"a.png": A, "caption.csv": b"a.png,a TOK"},
        1,
        captions=("a TOK",),
        silent=True,
    ),
    Case(
        "captions.csv with its columns the other way round",
        {"a.png": A, "captions.csv": b"caption,image_file\na TOK,a.png"},
        1,
        captions=("a TOK",),
        silent=True,
    ),
    Case(
        "a spreadsheet's BOM and semicolons",
        {"a.png": A, "captions.csv": "\ufefffile;text\na.png;a TOK, red".encode()},
        1,
        captions=("a TOK, red",),
        silent=True,
    ),
    Case("UTF-16", {"a.png": A, "a.txt": "a TOK café".encode("utf-16")}, 1, captions=("a TOK café",), silent=True),
    Case(
        "Windows-1252", {"a.png": A, "a.txt": "a TOK café".encode("cp1252")}, 1, captions=("a TOK café",), silent=True
    ),
    Case(
        "captions by name, never by position",
        {"b.png": A, "c.png": B, "captions.csv": b"c.png,third TOK\nb.png,second TOK"},
        2,
        captions=("second TOK", "third TOK"),
        silent=True,
    ),
    Case(
        "a row too many is named",
        {"a.png": A, "captions.csv": b"file,text\na.png,a TOK\nlost.png,gone"},
        1,
        "1 of its 2 rows name no image that is used: lost.png",
        captions=("a TOK",),
    ),
    Case(
        "a table of misspelt names is named",
        {"a.png": A, "captions.csv": b"file,text\nA1.png,x\nA2.png,y"},
        1,
        "none of its 2 rows names an image",
    ),
    Case(
        "a caption without its image is named", {"a.png": A, "b.txt": b"lost"}, 1, "b.txt: a caption without its image"
    ),
    Case(
        "an image without caption is named",
        {"a.png": A, "a.txt": b"a TOK", "b.png": B},
        2,
        "1 of 2 images came without a caption",
    ),
    Case("an empty caption file is named", {"a.png": A, "a.txt": b"  "}, 1, "its caption in a.txt is empty"),
    Case(
        "Hugging Face's metadata.jsonl",
        {"train/a.png": A, "train/metadata.jsonl": b'{"file_name":"a.png","text":"a TOK"}'},
        1,
        captions=("a TOK",),
        silent=True,
    ),
    Case(
        "metadata.csv with columns of any name",
        {"a.png": A, "metadata.csv": b"Datei,Text\na.png,a TOK"},
        1,
        captions=("a TOK",),
        options={"file_column": "Datei", "caption_column": "Text"},
        silent=True,
    ),
    Case(
        "metadata wins over the text file",
        {"a.png": A, "a.txt": b"b TOK", "metadata.csv": b"file_name,text\na.png,a TOK"},
        1,
        captions=("a TOK",),
        silent=True,
    ),
    Case("captions.json", {"a.png": A, "captions.json": b'{"a": "a TOK"}'}, 1, captions=("a TOK",), silent=True),
    Case("EveryDream's file names", {"a TOK on the moon_(2).png": A}, 1, captions=("a TOK on the moon",), silent=True),
    Case("camera names are no captions", {"IMG_1234.png": A}, 1, "came without a caption"),
    Case("kohya's folders", {"10_a TOK dog/a.png": A}, 1, captions=("a TOK dog",), silent=True),
    Case("kohya's folder with an absurd number", {"99999_x/a.png": A}, 0, "repeats of '99999'"),
    Case("EveryDream's multiply.txt", {"x/a.png": A, "x/a.txt": b"a TOK", "x/multiply.txt": b"3"}, 1, silent=True),
    Case("a multiply.txt that is no number", {"a.png": A, "multiply.txt": b"often"}, 0, "repeats of 'often'"),
    Case("broken JSON is an error", {"a.png": A, "metadata.jsonl": b"{oops"}, 0, "metadata.jsonl, line 1: not JSON"),
    Case(
        "two captions for one image are an error",
        {"a.png": A, "captions.csv": b"file,text\na.png,x\n./A.png,y"},
        0,
        "two captions for",
    ),
    Case(
        "Tokyo is not TOK",
        {"a.png": A, "a.txt": b"a street in Tokyo"},
        1,
        "lacks the trigger word",
        captions=("TOK, a street in Tokyo",),
    ),
    Case("tok is TOK", {"a.png": A, "a.txt": b"a photo of tok"}, 1, captions=("a photo of TOK",)),
    Case(
        "the trigger goes before the class word",
        {"a.png": A, "a.txt": b"a dog on grass"},
        1,
        captions=("a TOK dog on grass",),
        options={"class_word": "dog"},
    ),
    Case(
        "a style goes to the end",
        {"a.png": A, "a.txt": b"a house"},
        1,
        captions=("a house, in the style of TOK",),
        options={"concept_mode": "style"},
    ),
    Case(
        "regular expressions in the trigger mean nothing",
        {"a.png": A, "a.txt": b"a house"},
        1,
        captions=("c++, a house",),
        options={"trigger_word": "c++"},
    ),
    Case(
        "a caption that is too long is named",
        {"a.png": A, "a.txt": f"TOK {LONG}".encode()},
        1,
        "the text encoders read 77",
    ),
]

METADATA = [
    Case(
        "filters keep what meets them",
        {"a.png": A, "b.png": B, "metadata.csv": b"file_name,score\na.png,5\nb.png,4"},
        1,
        "b.png: score is 4, and the filter wants score > 4.5",
        options={"filters": ["score > 4.5"]},
    ),
    Case(
        "an image without the field is refused",
        {"a.png": A, "b.png": B, "a.json": b'{"score": 5}'},
        1,
        "its metadata has no score",
        options={"filters": ["score > 4.5"]},
    ),
    Case(
        "filters on the size",
        {"a.png": A, "b.png": picture((300, 300), seed=9)},
        1,
        "a.png: width is 128",
        options={"filters": ["width >= 256"]},
    ),
]

ARCHIVES = [
    Case("a zip", {"a.png": A}, 1, packed_as="zip", silent=True),
    Case("a tar", {"a.png": A}, 1, packed_as="tar", silent=True),
    Case("a zip called .bin", {"a.png": A}, 1, packed_as="zip.bin", silent=True),
    Case(
        "a webdataset shard",
        {"0000.png": A, "0000.json": json.dumps({"caption": "a TOK"}).encode(), "0001.png": B, "0001.txt": b"b TOK"},
        2,
        captions=("a TOK", "b TOK"),
        packed_as="tar",
        silent=True,
    ),
    Case(
        "a folder of webdataset shards",
        {"x-000.tar": shard({"0.png": A, "0.txt": b"a TOK"}), "x-001.tar": shard({"0.png": B, "0.txt": b"b TOK"})},
        2,
        captions=("a TOK", "b TOK"),
        silent=True,
    ),
    Case(
        "an archive in the archive is named",
        {"a.png": A, "more.zip": zipped({"b.png": B})},
        1,
        "more.zip: an archive inside the data is not opened",
    ),
    Case("climbing names are an error", {"../a.png": A}, 0, "absolute or climbing path", packed_as="zip"),
    Case("absolute names are an error", {"/a.png": A}, 0, "absolute or climbing path", packed_as="zip"),
    Case("one name twice is an error", {"a.png": A, "A.PNG": B}, 0, "holds this name twice", packed_as="zip"),
    Case("an empty zip is an error", {}, 0, "the archive is empty", packed_as="zip"),
    Case(
        "too many files are an error",
        {f"{n}.png": A for n in range(5)},
        0,
        "more than 3 files",
        packed_as="zip",
        options={"max_archive_files": 3},
    ),
    Case(
        "a large file in a small archive is an error",
        {"a.bmp": bytes(60_000_000)},
        0,
        "an archive bomb?",
        packed_as="deflated",
    ),
    Case("no images at all is an error", {"a.md": b"hello"}, 0, "no usable image among 1 files"),
]

CASES = [*DECODING, *DUPLICATES, *NAMES, *CAPTIONS, *METADATA, *ARCHIVES]


def pack(case: Case, folder: Path) -> Path:
    """Write the upload as the case wants it."""
    if case.packed_as == "folder":
        target = folder / "upload"
        target.mkdir()
        for name, data in case.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        return target
    path = folder / f"upload.{case.packed_as}"
    compression = zipfile.ZIP_DEFLATED if case.packed_as == "deflated" else zipfile.ZIP_STORED
    path.write_bytes(shard(case.files) if case.packed_as == "tar" else zipped(case.files, compression))
    return path

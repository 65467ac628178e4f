"""A dataset with everything that its page shows, including hostile names and captions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFilter

from preprocess.crops.crop import Size, apply_crop, centre_crop
from preprocess.dataset import Example, FaceBox, PreparedDataset, Rejected, View
from preprocess.gallery.page import PICTURE_SIDE, write_gallery

HOSTILE = "</script><img src=x onerror=alert(1)>"
LANDSCAPE, PORTRAIT, SQUARE = (288, 192), (192, 288), (224, 224)


def landscape(size: Size, seed: int) -> Image.Image:
    """An image of sky, a sun, and hills that fade with distance."""
    width, height = size
    skies = [((250, 214, 165), (108, 140, 170)), ((214, 226, 232), (86, 132, 160)), ((244, 180, 150), (92, 84, 130))]
    low, high = skies[seed % 3]
    picture = Image.linear_gradient("L").resize(size)
    picture = Image.composite(Image.new("RGB", size, low), Image.new("RGB", size, high), picture)
    draw = ImageDraw.Draw(picture)
    x, y, r = width * (0.25 + 0.13 * (seed % 5)), height * 0.34, min(size) * 0.07
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 244, 214))
    for layer in range(4):
        base = height * (0.5 + 0.13 * layer)
        ridge = [
            (i, base + height * 0.06 * math.sin(i / width * (5 + 2 * layer) + seed * 1.7 + layer * 2.1))
            for i in range(0, width + 8, 8)
        ]
        fade = layer / 3
        colour = tuple(int(a * (1 - fade) + b * fade) for a, b in zip(high, (34, 52, 48), strict=True))
        draw.polygon([(0, height), *ridge, (width, height)], fill=colour)
    return picture


def portrait(size: Size, seed: int) -> tuple[Image.Image, Image.Image, FaceBox]:
    """Return an image of a figure in front of a wall, the mask of the figure, and the box of its face."""
    width, height = size
    walls, coats = (
        [(222, 211, 196), (176, 192, 188), (206, 190, 204)],
        [(52, 70, 94), (132, 62, 48), (60, 84, 66), (150, 128, 84)],
    )
    picture, mask = Image.new("RGB", size, walls[seed % 3]), Image.new("L", size, 0)
    x, y, r = width * (0.42 + 0.08 * (seed % 3)), height * 0.36, min(size) * 0.15
    body, head = (x - 2.1 * r, y + 1.25 * r, x + 2.1 * r, y + 9 * r), (x - r, y - 1.3 * r, x + r, y + 1.3 * r)
    hair = (x - 1.15 * r, y - 1.5 * r, x + 1.15 * r, y + 0.7 * r)
    draw = ImageDraw.Draw(picture)
    draw.ellipse(hair, fill=(62, 44, 36))
    draw.rounded_rectangle(body, 1.6 * r, fill=coats[seed % 4])
    draw.ellipse(head, fill=(228, 184, 152))
    for side in (-0.38, 0.38):
        draw.ellipse((x + (side - 0.09) * r, y - 0.1 * r, x + (side + 0.09) * r, y + 0.1 * r), fill=(40, 32, 30))
    draw.arc((x - 0.4 * r, y + 0.2 * r, x + 0.4 * r, y + 0.75 * r), 20, 160, fill=(150, 74, 62), width=2)
    for shape in (hair, head):
        ImageDraw.Draw(mask).ellipse(shape, fill=255)
    ImageDraw.Draw(mask).rounded_rectangle(body, 1.6 * r, fill=255)
    face = FaceBox(head[0], head[1], head[2] - head[0], head[3] - head[1], 0.93)
    return picture, mask.filter(ImageFilter.GaussianBlur(3)), face


def save(image: Image.Image, folder: Path, name: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return name


def example(folder: Path, index: int, source: str, picture: Image.Image, target: Size, **decided: Any) -> Example:
    """Write the files of one image as preparation does, and return its record. `decided`: its fields, and `crop`."""
    crop = decided.pop("crop", None) or centre_crop(picture.size, target)
    file = save(apply_crop(picture, crop), folder, f"images/{index:04d}.png")
    preview = picture.copy()
    preview.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    decided.setdefault("preview", save(preview, folder, f"previews/{index:04d}.webp"))
    decided.setdefault("views", (View(file, crop),))
    return Example(source, decided.pop("caption"), decided.pop("caption_source"), **decided)


def person(folder: Path, index: int, source: str, **decided: Any) -> Example:
    """Write an image with a face, a mask, and a flipped view."""
    picture, mask, face = portrait((900, 1200), index)
    crop = centre_crop(picture.size, PORTRAIT)
    plain = example(folder, index, source, picture, PORTRAIT, crop=crop, **decided)
    masked = save(apply_crop(mask, crop), folder, f"masks/{index:04d}.png")
    flipped = apply_crop(picture, crop).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirror = View(save(flipped, folder, f"images/{index:04d}_flipped.png"), crop.mirrored(), flipped=True)
    return replace(plain, faces=(face,), crop_source="face", views=(View(plain.views[0].file, crop, masked), mirror))


def make_dataset(folder: Path) -> PreparedDataset:
    """Write twelve images: three buckets, two concepts, masks, faces, warnings, hostile names and unusual names."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = [
        person(folder, 0, "anna/portrait 01.jpg", caption="a portrait of TOK before a plain wall, soft light",
               caption_source="portrait 01.txt", concept="TOK"),
        example(folder, 1, "hills at dusk.jpg", landscape((1500, 1000), 1), LANDSCAPE, concept="HIL", repeats=4,
                caption="HIL, a view over blue hills under a low sun, the far ridges pale in the haze",
                caption_source="metadata.jsonl", crop_source="saliency"),
        person(folder, 2, "anna/Zoë \"Straße\" d'été.png", caption="TOK in a green coat, looking at the camera",
               caption_source="Zoë \"Straße\" d'été.txt", concept="TOK", weight=0.5,
               warnings=("anna/Zoë \"Straße\" d'été.png: two faces of similar size; the larger one is kept in the "
                         "picture. Crop it by hand if that is the wrong one",)),
        example(folder, 3, "panorama.tif", landscape((2400, 800), 2), LANDSCAPE, concept="HIL", repeats=4,
                caption="HIL, a wide valley in the evening", caption_source="metadata.jsonl", crop_source="saliency",
                warnings=("panorama.tif: half of the picture is cut off to fit 288×192; give it a narrower copy",)),
        example(folder, 4, "<b>&amp;\"'>.png", landscape((700, 700), 3), SQUARE, concept="HIL", repeats=4,
                caption=HOSTILE, caption_source="metadata.jsonl", crop_source="centre"),
        person(folder, 5, "anna/🌻 garden.webp", caption="TOK among sunflowers 🌻", caption_source="template",
               concept="TOK"),
        example(folder, 6, "small.gif", landscape((150, 110), 4), LANDSCAPE, concept="HIL", repeats=4,
                caption="HIL, a valley", caption_source="metadata.jsonl", crop_source="saliency",
                warnings=("small.gif: 150×110 is enlarged 1.9 times; give a larger picture or a lower resolution",
                          "small.gif: nearly the same picture as hills at dusk.jpg; keep the better one")),
        person(folder, 7, "anna/studio.jpg", caption="a studio portrait of TOK", caption_source="studio.txt",
               concept="TOK"),
        example(folder, 8, "preserve/0001_a_rather_long_file_name_without_any_space_in_it_from_a_camera.jpeg",
                landscape((1000, 1000), 5), SQUARE, weight=0.2, caption="a landscape", caption_source="florence-2"),
        example(folder, 9, "preserve/0002.jpeg", landscape((1000, 1400), 6), PORTRAIT, weight=0.2, caption="",
                caption_source="florence-2"),
        example(folder, 10, "hills at dusk (copy).jpg", landscape((1500, 1000), 1), LANDSCAPE, concept="HIL", repeats=4,
                caption="HIL at dusk", caption_source="metadata.jsonl", crop_source="saliency"),
        example(folder, 11, "no preview.png", landscape((1280, 800), 8), LANDSCAPE, concept="HIL", repeats=4,
                caption="HIL from above", caption_source="metadata.jsonl", crop_source="saliency", preview=None),
    ]  # fmt: skip
    rejected = (
        Rejected("notes.docx", "notes.docx: not an image format that is read here, and not a caption file"),
        Rejected("<script>alert(2)</script>.jpg", "damaged or cut off (image file is truncated); save it again"),
    )
    warnings = ("metadata.jsonl: 2 of its 9 rows name no image; the names in it must be those of the images",)
    return PreparedDataset(folder, tuple(examples), rejected, warnings)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return make_dataset(tmp_path_factory.mktemp("prepared") / "anna & the hills")


@pytest.fixture(scope="module")
def page(dataset: PreparedDataset) -> Path:
    return write_gallery(dataset)

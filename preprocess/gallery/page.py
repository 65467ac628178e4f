"""Writes dataset.html: every image with its crop, caption and warnings, in one file."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any
from urllib.parse import quote

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from pages.shell import data_uri, html_page, page_file
from preprocess.captions.concepts import concept_name
from preprocess.crops.crop import Crop, Size
from preprocess.dataset import Example, PreparedDataset, View, picture_key
from preprocess.errors import DatasetError
from preprocess.workers.parallel import ordered_map

GALLERY_FILE = "dataset.html"
PICTURE_SIDE = 320
"""Longest side in pixels of an image or mask on the page. At some 20 kB each, a page of 2,000 images still opens."""
VIEW_SIDE = 128
SHOWN_IMAGES = 2000
"""Of a larger dataset, images with warnings are shown first. This limits memory and page size."""
SHOWN_VIEWS = 6
"""Largest number of augmented views shown per image; further ones are counted."""
PRESERVATION = "preservation set"
Link = Callable[[str], str]


def write_gallery(dataset: PreparedDataset, folder: Path | None = None) -> Path:
    """Write dataset.html into `folder`, by default the dataset's own, and return its path.

    Raises DatasetError for a preview, view or mask that is missing, damaged, or outside the dataset's folder.
    """
    folder = folder or dataset.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / GALLERY_FILE
    path.write_text(gallery_page(dataset, folder), encoding="utf-8", newline="\n")
    return path


def gallery_page(dataset: PreparedDataset, folder: Path | None = None) -> str:
    """Return the HTML of a page for `folder`, by default the dataset's own: style, script, and the data as JSON.

    Raises DatasetError as `write_gallery` does.
    """
    link = partial(_link, PurePosixPath(os.path.relpath(dataset.folder, folder or dataset.folder)))
    shown = _shown(dataset.examples)
    images = list(ordered_map(partial(_image, dataset.folder, link), shown))
    data = {"summary": _summary(dataset, shown, images), "images": images}
    style, script, body = (page_file(f"gallery.{kind}", "preprocess.gallery") for kind in ("css", "js", "html"))
    return html_page("Dataset", '<h1 id="folder">Dataset</h1>', body, style=style, script=script, data=data)


def _shown(examples: Sequence[Example]) -> list[Example]:
    """Return all examples, or as many as a page may show: those with warnings first. Their order is kept."""
    chosen = sorted(range(len(examples)), key=lambda index: not examples[index].warnings)[:SHOWN_IMAGES]
    return [examples[index] for index in sorted(chosen)]


def _bucket(example: Example) -> str:
    return f"{example.bucket[0]} × {example.bucket[1]}"


def _concept(example: Example) -> str:
    return PRESERVATION if example.concept is None else concept_name(example.concept)


def _unshown(images: int, shown: int) -> list[str]:
    if images == shown:
        return []
    return [f"{shown:,} of {images:,} images are shown here: those with warnings, then the first of the others"]


def _summary(dataset: PreparedDataset, shown: Sequence[Example], images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the data at the top of the page. Counts of buckets, caption sources and concepts: the most frequent
    first. `images`: the data of the shown examples."""
    examples = dataset.largest
    return {
        "folder": dataset.folder.resolve().name,
        "images": len(examples),
        "views": sum(len(example.views) for example in dataset.examples),
        "seenInAnEpoch": sum(example.repeats for example in dataset.examples),
        "withWarnings": sum(bool(example.warnings) for example in dataset.examples),
        "withMask": sum(bool(example.views[0].mask) for example in examples),
        "withFaces": sum(bool(example.faces) for example in examples),
        "enlarged": sum(example.views[0].crop.enlargement() > 1 for example in examples),
        "identical": _identical(shown, images),
        "sizes": _smallest_median_largest([example.views[0].crop.original for example in examples]),
        "captionWords": _least_median_most(
            [len(caption.split()) for example in examples for caption in example.captions]
        ),
        "buckets": Counter(map(_bucket, dataset.examples)).most_common(),
        "captionSources": Counter(map(_source_group, examples)).most_common(),
        "concepts": Counter(map(_concept, examples)).most_common(),
        "warnings": [*_unshown(len(dataset.examples), len(images)), *dataset.warnings],
        "rejected": [asdict(rejected) for rejected in dataset.rejected],
    }


def _image(folder: Path, link: Link, example: Example) -> dict[str, Any]:
    plain, *augmented = example.views
    return {
        "name": example.source,
        "caption": "\n".join(example.captions),
        "captionSource": example.caption_source,
        "captionGroup": _source_group(example),
        "concept": _concept(example),
        "repeats": example.repeats,
        "weight": example.weight,
        "cropSource": example.crop_source,
        "warnings": example.warnings,
        "size": plain.crop.original,
        "bucket": _bucket(example),
        "window": asdict(plain.crop.window()),
        "faces": [asdict(face) for face in example.faces],
        "whole": example.preview is not None,
        "picture": _picture_uri(folder, example.preview or plain.file, PICTURE_SIDE),
        "mask": _mask_uri(folder, plain.mask) if plain.mask else None,
        "file": link(plain.file),
        "augmentedViews": len(augmented),
        "views": [_view(view, plain.crop, folder, link) for view in augmented[:SHOWN_VIEWS]],
    }


def _view(view: View, plain: Crop, folder: Path, link: Link) -> dict[str, Any]:
    crop = view.crop.mirrored() if view.flipped else view.crop
    differences = ["flipped"] * view.flipped + ["other crop"] * (crop != plain)
    return {
        "kind": ", ".join(differences) or "other colours",
        "file": link(view.file),
        "picture": _picture_uri(folder, view.file, VIEW_SIDE),
    }


def _picture_uri(folder: Path, name: str, side: int) -> str:
    """Return an image as a data URI, reduced where its longest side exceeds `side` pixels. Raises DatasetError."""
    path = _inside(folder, name)
    picture = _open(path)
    if max(picture.size) <= side and picture.format == "WEBP":
        return data_uri(path.read_bytes())
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    return _webp_uri(small)


def _mask_uri(folder: Path, name: str) -> str:
    """Return a mask as a data URI, at most PICTURE_SIDE large: black, with an opacity of 255 minus the mask.

    It looks like the mask on a white page, and covers everything but the subject when laid over the image.
    """
    mask = _open(_inside(folder, name)).convert("L")
    mask.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    black, stencil = Image.new("L", mask.size, 0), mask.point(lambda value: 255 - value)
    return _webp_uri(Image.merge("RGBA", (black, black, black, stencil)))


def _open(path: Path) -> ImageFile:
    remedy = "Prepare the images again."
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: is missing. {remedy}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: cannot be read as an image ({error}). {remedy}") from error
    return picture


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(f"{name}: is outside the dataset folder. Prepare the images again.")
    return path


def _webp_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75, method=0, alpha_quality=70)  # higher methods: 15 times as long
    return data_uri(buffer.getvalue())


def _link(way: PurePosixPath, name: str) -> str:
    """Return a relative URL, escaped for any file name: names are bytes, and a colon would begin a scheme."""
    return quote(str(way / name), errors="surrogateescape")


def _source_group(example: Example) -> str:
    """Return the caption's source; sidecar files named like their image are grouped as "*.txt"."""
    source, image = PurePosixPath(example.caption_source), PurePosixPath(example.source)
    return f"*{source.suffix}" if source.suffix and source.stem in (image.stem, image.name) else example.caption_source


def _identical(examples: Sequence[Example], images: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return groups of names of images that look exactly alike on the page. With several resolutions, the examples of
    one image are not counted as duplicates."""
    groups: dict[str, dict[int, str]] = {}
    for place, (example, image) in enumerate(zip(examples, images, strict=True)):
        groups.setdefault(image["picture"], {})[picture_key(place, example.picture)] = image["name"]
    return [list(names.values()) for names in groups.values() if len(names) > 1]


def _smallest_median_largest(sizes: Iterable[Size]) -> list[Size]:
    """Return the smallest, median and largest size by number of pixels; [] without sizes."""
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else []


def _least_median_most(counts: Sequence[int]) -> list[float]:
    return [min(counts), median(counts), max(counts)] if counts else []

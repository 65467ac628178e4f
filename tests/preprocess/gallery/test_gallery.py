"""Tests of the contact sheet of a dataset: what it shows, and that no text of the dataset runs as code."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocess.crops.crop import Crop, Size, centre_crop
from preprocess.dataset import PreparedDataset, Rejected, View
from preprocess.errors import DatasetError
from preprocess.gallery.page import GALLERY_FILE, PICTURE_SIDE, SHOWN_VIEWS, gallery_page, write_gallery
from tests.preprocess.gallery.gallery_dataset import HOSTILE, PORTRAIT, SQUARE, example, landscape, save

pytest_plugins = ["tests.preprocess.gallery.gallery_dataset"]


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., PreparedDataset]:
    """Returns a function that makes a dataset of one image, with the given fields changed."""
    plain = example(tmp_path, 0, "a.png", landscape((300, 200), 0), SQUARE, caption="a hill", caption_source="a.txt")

    def make(**changed: Any) -> PreparedDataset:
        return PreparedDataset(tmp_path, (replace(plain, **changed),), (), ())

    return make


def data_of(page: str) -> dict[str, Any]:
    """Return the data that the page's script reads."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return dict(json.loads(found[0]))


def picture_in(uri: str) -> Image.Image:
    start = "data:image/webp;base64,"
    assert uri.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(start), validate=True)))


def test_every_image_and_every_refused_file_is_on_the_page(dataset: PreparedDataset, page: Path) -> None:
    assert page == dataset.folder / GALLERY_FILE
    data = data_of(page.read_text(encoding="utf-8"))
    shown = [(image["name"], image["caption"], image["captionSource"]) for image in data["images"]]
    assert shown == [(one.source, one.caption, one.caption_source) for one in dataset.examples]
    assert [image["warnings"] for image in data["images"]] == [list(one.warnings) for one in dataset.examples]
    assert data["summary"]["rejected"] == [{"source": one.source, "reason": one.reason} for one in dataset.rejected]
    assert data["summary"]["warnings"] == list(dataset.warnings)


class Markup(HTMLParser):
    """Collects the tags and attributes that a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_hostile_names_and_captions_add_no_markup(
    one: Callable[..., PreparedDataset], dataset: PreparedDataset, page: Path
) -> None:
    plain, full = Markup(gallery_page(one())), Markup(page.read_text(encoding="utf-8"))
    assert full.tags == plain.tags and len(full.attributes) == len(plain.attributes)
    assert full.tags.count("script") == 2
    assert not [name for name, _ in full.attributes if name.startswith("on")]
    assert any(image["caption"] == HOSTILE for image in data_of(page.read_text(encoding="utf-8"))["images"])


def test_the_page_names_no_address_and_allows_only_its_own_style_and_script(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        source = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_names_that_are_no_utf_8_are_shown_and_linked(one: Callable[..., PreparedDataset]) -> None:
    crop = centre_crop((300, 200), SQUARE)
    odd = one(source="caf\udce9.png", views=(View("images/caf\udce9 #1?.png", crop),))
    write_gallery(odd)
    image = data_of((odd.folder / GALLERY_FILE).read_text(encoding="utf-8"))["images"][0]
    assert image["name"] == "caf\udce9.png" and image["file"] == "images/caf%E9%20%231%3F.png"


def test_a_link_cannot_leave_for_a_scheme(one: Callable[..., PreparedDataset]) -> None:
    crop = centre_crop((300, 200), SQUARE)
    image = data_of(gallery_page(one(views=(View("javascript:alert(1)", crop),))))["images"][0]
    assert ":" not in image["file"]


def test_the_crop_box_is_in_pixels_of_the_original(page: Path) -> None:
    images = {image["name"]: image for image in data_of(page.read_text(encoding="utf-8"))["images"]}
    # 2400×800 is resized to 576×192, of which 288 columns from column 144 on are kept
    assert images["panorama.tif"]["window"] == {"left": 600.0, "top": 0.0, "width": 1200.0, "height": 800.0}
    assert images["panorama.tif"]["size"] == [2400, 800] and images["panorama.tif"]["bucket"] == "288 × 192"
    assert images["hills at dusk.jpg"]["window"] == {"left": 0.0, "top": 0.0, "width": 1500.0, "height": 1000.0}


sides = st.integers(16, 8000)


@given(original=st.tuples(sides, sides), target=st.tuples(st.integers(64, 1536), st.integers(64, 1536)), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_crop_box_lies_inside_the_picture(
    one: Callable[..., PreparedDataset], original: Size, target: Size, data: st.DataObject
) -> None:
    resized = centre_crop(original, target).resized
    left, top = (data.draw(st.integers(0, resized[axis] - target[axis])) for axis in (0, 1))
    crop = Crop(original, resized, (left, top), target)
    image = data_of(gallery_page(one(views=(View("images/0000.png", crop),))))["images"][0]
    box = image["window"]
    assert box["left"] >= 0 and box["left"] + box["width"] <= original[0] * (1 + 1e-9)
    assert box["top"] >= 0 and box["top"] + box["height"] <= original[1] * (1 + 1e-9)
    assert box["width"] / original[0] == pytest.approx(target[0] / resized[0])
    assert box["left"] / original[0] == pytest.approx(left / resized[0])


def test_pictures_and_masks_are_small(one: Callable[..., PreparedDataset], page: Path) -> None:
    images = data_of(page.read_text(encoding="utf-8"))["images"]
    uris = [uri for image in images for uri in (image["picture"], image["mask"]) if uri]
    assert len(uris) == 12 + 4
    assert all(max(picture_in(uri).size) <= PICTURE_SIDE for uri in uris)
    large = one()
    save(landscape((2000, 1000), 3), large.folder, "previews/0000.webp")
    assert picture_in(data_of(gallery_page(large))["images"][0]["picture"]).size == (PICTURE_SIDE, PICTURE_SIDE // 2)


def test_a_small_preview_is_embedded_as_it_is(one: Callable[..., PreparedDataset]) -> None:
    small = one()
    uri = data_of(gallery_page(small))["images"][0]["picture"]
    assert base64.b64decode(uri.partition(",")[2]) == (small.folder / "previews/0000.webp").read_bytes()


def test_the_mask_covers_what_is_not_the_subject(page: Path) -> None:
    images = data_of(page.read_text(encoding="utf-8"))["images"]
    assert [bool(image["mask"]) for image in images[:3]] == [True, False, True]
    stencil = picture_in(images[0]["mask"]).getchannel("A")
    assert stencil.size == PORTRAIT
    assert stencil.getpixel((2, 2)) == 255
    face = images[0]["faces"][0]
    scale = PORTRAIT[1] / 1200
    middle = (face["left"] + face["width"] / 2 - images[0]["window"]["left"], face["top"] + face["height"] / 2)
    assert stencil.getpixel((int(middle[0] * scale), int(middle[1] * scale))) == 0


def test_the_summary_counts(page: Path) -> None:
    found = data_of(page.read_text(encoding="utf-8"))["summary"]
    assert found["folder"] == "anna & the hills"
    assert (found["images"], found["views"], found["seenInAnEpoch"]) == (12, 16, 30)
    assert (found["withWarnings"], found["withMask"], found["withFaces"], found["enlarged"]) == (3, 4, 4, 1)
    assert found["sizes"] == [[150, 110], [900, 1200], [2400, 800]]
    assert found["buckets"] == [["192 × 288", 5], ["288 × 192", 5], ["224 × 224", 2]]
    assert found["concepts"] == [["HIL", 6], ["TOK", 4], ["preservation set", 2]]
    assert found["captionSources"] == [["metadata.jsonl", 6], ["*.txt", 3], ["florence-2", 2], ["template", 1]]
    assert found["captionWords"] == [0, 3.5, 17]
    assert found["identical"] == [["hills at dusk.jpg", "hills at dusk (copy).jpg"]]


def test_an_image_of_several_resolutions_is_not_its_own_duplicate(one: Callable[..., PreparedDataset]) -> None:
    (plain,) = one().examples
    sizes = (replace(plain, picture=0), replace(plain, picture=0), replace(plain, source="copy.png", picture=1))
    data = data_of(gallery_page(replace(one(), examples=sizes[:2])))
    assert len(data["images"]) == 2 and data["summary"]["identical"] == []
    data = data_of(gallery_page(replace(one(), examples=sizes)))
    assert data["summary"]["identical"] == [["a.png", "copy.png"]]


def test_augmented_views_are_named_and_the_first_of_them_shown(one: Callable[..., PreparedDataset]) -> None:
    crop = centre_crop((300, 200), SQUARE)
    moved = replace(crop, corner=(0, 0))
    plain, flipped = View("images/0000.png", crop), View("images/0000.png", crop.mirrored(), flipped=True)
    others = (View("images/0000.png", moved), View("images/0000.png", moved.mirrored(), flipped=True))
    image = data_of(gallery_page(one(views=(plain, flipped, *others, *[plain] * 20))))["images"][0]
    assert image["augmentedViews"] == 23 and len(image["views"]) == SHOWN_VIEWS
    kinds = [view["kind"] for view in image["views"]]
    assert kinds[:4] == ["flipped", "other crop", "flipped, other crop", "other colours"]


def test_of_a_large_dataset_a_part_is_shown_and_all_is_counted(
    one: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.gallery.page.SHOWN_IMAGES", 3)
    small = one()
    examples = [replace(small.examples[0], source=f"{index}.png", warnings=()) for index in range(9)]
    examples[5], examples[7] = (replace(examples[index], warnings=("odd",)) for index in (5, 7))
    data = data_of(gallery_page(replace(small, examples=tuple(examples))))
    assert [image["name"] for image in data["images"]] == ["0.png", "5.png", "7.png"]
    assert data["summary"]["images"] == 9 and data["summary"]["concepts"][0][1] == 9
    assert data["summary"]["warnings"][0].startswith("3 of 9 images are shown here: those with warnings")


def test_a_dataset_without_images_has_a_page(tmp_path: Path) -> None:
    data = data_of(gallery_page(PreparedDataset(tmp_path, (), (Rejected("a.jpg", "damaged"),), ())))
    assert data["images"] == [] and data["summary"]["captionWords"] == [] and data["summary"]["sizes"] == []


def test_a_missing_preview_is_named(one: Callable[..., PreparedDataset]) -> None:
    with pytest.raises(DatasetError, match=r"previews/gone\.webp: is missing\. Prepare the images again"):
        gallery_page(one(preview="previews/gone.webp"))


def test_a_damaged_preview_is_named(one: Callable[..., PreparedDataset]) -> None:
    damaged = one()
    (damaged.folder / "previews/0000.webp").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(DatasetError, match=r"previews/0000\.webp: cannot be read as an image"):
        gallery_page(damaged)


def test_a_preview_outside_the_folder_is_refused(one: Callable[..., PreparedDataset]) -> None:
    inside = one()
    save(landscape((30, 20), 0), inside.folder.parent, "private.webp")
    with pytest.raises(DatasetError, match="private.webp: is outside the dataset folder"):
        gallery_page(one(preview="../private.webp"))

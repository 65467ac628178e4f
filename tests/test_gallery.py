"""The contact sheet of a dataset: what stands on it, that nothing in it runs, and how it behaves in a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from preprocess.crop import Crop, Size, apply_crop, centre_crop
from preprocess.dataset import Example, FaceBox, PreparedDataset, Rejected, View
from preprocess.errors import DatasetError
from preprocess.gallery import GALLERY_FILE, PICTURE_SIDE, SHOWN_VIEWS, gallery_page, write_gallery

if TYPE_CHECKING:
    from tests.browser import Browser

pytest_plugins = ["tests.browser"]

HOSTILE = "</script><img src=x onerror=alert(1)>"
LANDSCAPE, PORTRAIT, SQUARE = (288, 192), (192, 288), (224, 224)


def landscape(size: Size, seed: int) -> Image.Image:
    """Sky, a sun, and hills that fade with distance."""
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
    """A figure before a wall, where it is, and where its face is."""
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
    """One image as preparation writes it down: its files, and what was decided."""
    crop = decided.pop("crop", None) or centre_crop(picture.size, target)
    file = save(apply_crop(picture, crop), folder, f"images/{index:04d}.png")
    preview = picture.copy()
    preview.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    decided.setdefault("preview", save(preview, folder, f"previews/{index:04d}.webp"))
    decided.setdefault("views", (View(file, crop),))
    return Example(source, decided.pop("caption"), decided.pop("caption_source"), **decided)


def person(folder: Path, index: int, source: str, **decided: Any) -> Example:
    """An image with a face, a mask, and a flipped view."""
    picture, mask, face = portrait((900, 1200), index)
    crop = centre_crop(picture.size, PORTRAIT)
    plain = example(folder, index, source, picture, PORTRAIT, crop=crop, **decided)
    masked = save(apply_crop(mask, crop), folder, f"masks/{index:04d}.png")
    flipped = apply_crop(picture, crop).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirror = View(save(flipped, folder, f"images/{index:04d}_flipped.png"), crop.mirrored(), flipped=True)
    return replace(plain, faces=(face,), crop_source="face", views=(View(plain.views[0].file, crop, masked), mirror))


def make_dataset(folder: Path) -> PreparedDataset:
    """Twelve images: three buckets, two concepts, masks, faces, warnings, hostile and merely unusual names."""
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


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., PreparedDataset]:
    """A dataset of one image, with whatever shall be different about it."""
    plain = example(tmp_path, 0, "a.png", landscape((300, 200), 0), SQUARE, caption="a hill", caption_source="a.txt")

    def make(**changed: Any) -> PreparedDataset:
        return PreparedDataset(tmp_path, (replace(plain, **changed),), (), ())

    return make


def data_of(page: str) -> dict[str, Any]:
    """What the page's script works on."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return dict(json.loads(found[0]))


def picture_in(uri: str) -> Image.Image:
    start = "data:image/webp;base64,"
    assert uri.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(start), validate=True)))


# ---- the text of the page


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
    monkeypatch.setattr("preprocess.gallery.SHOWN_IMAGES", 3)
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
    with pytest.raises(DatasetError, match="private.webp: lies outside the dataset folder"):
        gallery_page(one(preview="../private.webp"))


# ---- the page in a browser

SHOWN_NAMES = "return [...document.querySelectorAll('.card:not([hidden]) .name')].map((name) => name.textContent)"
BROKEN_PICTURES = """
const pictures = [...document.querySelectorAll(".card img")];
return pictures.filter((picture) => !(picture.complete && picture.naturalWidth > 0)).map((picture) => picture.alt);
"""
CROP_BOX = """
const card = [...document.querySelectorAll(".card")].find((card) => card.textContent.includes("panorama.tif"));
card.scrollIntoView();
const picture = card.querySelector("img").getBoundingClientRect();
const box = card.querySelector(".crop .line").getBoundingClientRect();
return [(box.left - picture.left) / picture.width, (box.top - picture.top) / picture.height,
  box.width / picture.width, box.height / picture.height];
"""


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"const choice = document.querySelector('[name={name}]'); choice.value = {json.dumps(value)};"
        "choice.dispatchEvent(new Event('input', { bubbles: true }))"
    )


def click(browser: Browser, selector: str) -> None:
    browser.driver.find_element(By.CSS_SELECTOR, selector).click()


def count_shown(browser: Browser) -> str:
    return browser.driver.find_element(By.ID, "count").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_all_is_shown_without_complaint(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, 800, scheme)
    browser.scroll_through()
    browser.wait_for("[...document.querySelectorAll('.card img')].every((picture) => picture.complete)")
    assert browser.run(BROKEN_PICTURES) == []
    assert browser.run("return document.querySelectorAll('.card img').length") == 12 + 4 + 4
    assert browser.overflowing() == []
    assert browser.faint_texts() == [] and browser.small_texts() == []
    assert browser.complaints() == []


def test_only_what_is_near_is_loaded(browser: Browser, page: Path) -> None:
    browser.open(page, 360, 400)
    browser.run("document.querySelector('.card').scrollIntoView()")
    browser.wait_for("document.querySelector('.card img[src]')?.complete")
    assert 0 < browser.run("return document.querySelectorAll('.card img[src]').length") < 12


def test_foreign_text_is_shown_as_text(browser: Browser, dataset: PreparedDataset, page: Path) -> None:
    browser.open(page)
    assert browser.run(SHOWN_NAMES) == [one.source for one in dataset.examples]
    captions = "return [...document.querySelectorAll('.caption')].map((caption) => caption.textContent)"
    assert browser.run(captions) == [one.caption for one in dataset.examples]
    assert browser.driver.title == "anna & the hills"
    assert not browser.run("return document.querySelector('img[src=x], dt script, dt b')")
    assert "<script>alert(2)</script>.jpg" in browser.driver.find_element(By.ID, "rejected").text


def test_the_crop_box_is_drawn_where_the_picture_was_cut(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run(CROP_BOX) == pytest.approx([0.25, 0, 0.5, 1], abs=0.02)
    click(browser, "[name=crop]")
    assert browser.run(CROP_BOX)[2:] == [0, 0]


def test_search_finds_names_and_captions(browser: Browser, page: Path) -> None:
    browser.open(page)
    search = browser.driver.find_element(By.NAME, "text")
    search.send_keys("STRASSE")
    assert browser.run(SHOWN_NAMES) == []
    assert browser.driver.find_element(By.ID, "nothing").is_displayed()
    search.clear()
    search.send_keys("zo\u0065\u0308 GREEN")  # ë in two code points, as macOS writes names; a word of the caption
    assert browser.run(SHOWN_NAMES) == ['anna/Zoë "Straße" d\'été.png']
    assert count_shown(browser) == "1 of 12 images"
    click(browser, "#reset")
    assert count_shown(browser) == "12 of 12 images"


def test_filters_narrow_down_together(browser: Browser, page: Path) -> None:
    browser.open(page)
    click(browser, "[name=onlyWarnings]")
    assert browser.run(SHOWN_NAMES) == ['anna/Zoë "Straße" d\'été.png', "panorama.tif", "small.gif"]
    choose(browser, "concept", "HIL")
    choose(browser, "bucket", "288 × 192")
    choose(browser, "captionGroup", "metadata.jsonl")
    assert browser.run(SHOWN_NAMES) == ["panorama.tif", "small.gif"]
    choose(browser, "captionGroup", "*.txt")
    assert count_shown(browser) == "0 of 12 images"


def test_the_keyboard_is_enough(browser: Browser, page: Path) -> None:
    browser.open(page)
    keys = ActionChains(browser.driver)
    keys.send_keys("/", "panorama", Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB, Keys.SPACE).perform()
    assert browser.run("return document.activeElement.name") == "onlyWarnings"
    assert browser.run("return document.activeElement.checked") and browser.run(SHOWN_NAMES) == ["panorama.tif"]


def test_masks_are_laid_over_one_picture_or_all(browser: Browser, page: Path) -> None:
    browser.open(page)
    masked = "return document.querySelectorAll('.masked').length"
    click(browser, "button.view")
    assert browser.run(masked) == 1
    assert browser.run("return document.querySelector('button.view').ariaPressed") == "true"
    click(browser, "[name=masks]")
    assert browser.run(masked) == 4
    click(browser, "[name=masks]")
    assert browser.run(masked) == 0


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_theme_follows_the_system_until_it_is_chosen(browser: Browser, page: Path, scheme: str, other: str) -> None:
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 21, 20)"}
    browser.open(page, scheme=scheme)
    assert browser.run(background) == paper[scheme]
    click(browser, "#theme")
    assert browser.run(background) == paper[other]
    assert browser.driver.find_element(By.ID, "theme").get_attribute("aria-pressed") == str(other == "dark").lower()

"""Tests of the training images of an upload: what the crop contains, the masks, and how small ones are enlarged."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageOps
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution, Swin2SRModel

import preprocess.crops.clipseg
import preprocess.crops.upscale
from preprocess.crops.clipseg import SegmentedSubject
from preprocess.crops.crop import Window, apply_crop
from preprocess.crops.masks import centre_of_mass
from preprocess.crops.upscale import Upscaler
from preprocess.dataset import Example, FaceBox, PreparedDataset, View
from preprocess.errors import DatasetError
from preprocess.faces.choice import choose_face
from preprocess.faces.registry import find_detector
from preprocess.prepare import prepare
from preprocess.uploads.decoding import decode
from settings.preparation import DataConfig
from settings.record import build_settings

OPTIONS = {"resolution": 256, "captioner": "none"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a viewer transposes a stored image for display, for each EXIF orientation."""


@pytest.fixture(autouse=True)
def no_model_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACE_DETECTOR_MODEL", raising=False)


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    folder = tmp_path / "upload"
    folder.mkdir()
    return folder


def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())


def prepared(upload: Path, **options: object) -> PreparedDataset:
    return prepare([upload], build_settings(DataConfig, OPTIONS | options), upload.parent / "dataset")


def only(dataset: PreparedDataset) -> Example:
    (example,) = dataset.examples
    return example


def pixels(dataset: PreparedDataset, view: View) -> Image.Image:
    with Image.open(dataset.folder / view.file) as image:
        return image.copy()


def mask_of(dataset: PreparedDataset, view: View) -> Image.Image:
    assert view.mask
    with Image.open(dataset.folder / view.mask) as mask:
        return mask.copy()


def face_in(image: Image.Image) -> FaceBox:
    return choose_face(find_detector("auto").detect(image), image.size).face


def middle(face: FaceBox) -> tuple[float, float]:
    return face.left + face.width / 2, face.top + face.height / 2


def holds(window: Window, face: FaceBox) -> bool:
    """Whether the whole face lies in the window, with a tolerance of one pixel."""
    return (
        window.left <= face.left + 1
        and window.top <= face.top + 1
        and window.left + window.width >= face.left + face.width - 1
        and window.top + window.height >= face.top + face.height - 1
    )


def on_a_wall(size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    """The astronaut at `corner` in front of a grey wall of `size`."""
    wall = Image.new("RGB", size, "grey")
    wall.paste(astronaut(), corner)
    return wall


@pytest.mark.parametrize(
    "image",
    [
        astronaut(),
        on_a_wall((1400, 700), (880, 150)),
        on_a_wall((1400, 520), (0, 0)),
        on_a_wall((600, 1500), (40, 980)),
    ],
    ids=["square", "right of a wide picture", "left of a wide picture", "bottom of a high picture"],
)
def test_the_whole_face_stays_in_the_picture(image: Image.Image, upload: Path) -> None:
    image.save(upload / "a.png")
    face = face_in(image)
    dataset = prepared(upload, concept_mode="face")
    example = only(dataset)
    assert example.crop_source == "face"
    assert holds(example.views[0].crop.window(), face)
    assert middle(example.faces[0]) == pytest.approx(middle(face), abs=1)
    assert face_in(pixels(dataset, example.views[0])).width > 0.15 * min(example.bucket)


def test_augmented_views_stay_within_the_portrait(upload: Path) -> None:
    """Jitter may crop hair and shoulders, but each window stays inside that of the portrait, within two pixels."""
    astronaut().save(upload / "a.png")
    example = only(prepared(upload, concept_mode="face", augmented_views=8, crop_jitter=0.3))
    portrait = example.views[0].crop.window()
    assert len(example.views) == 1 + 8
    for view in example.views[1:]:
        window = view.crop.window()
        assert window.left >= portrait.left - 2 and window.top >= portrait.top - 2
        assert window.left + window.width <= portrait.left + portrait.width + 2
        assert window.top + window.height <= portrait.top + portrait.height + 2


def test_face_masks_are_where_the_faces_are(upload: Path) -> None:
    on_a_wall((1000, 700), (420, 150)).save(upload / "a.png")
    options = {"mask": "face", "horizontal_flip": True, "augmented_views": 2, "crop_jitter": 0.2}
    dataset = prepared(upload, concept_mode="face", **options)
    example = only(dataset)
    assert len(example.views) == 4 and example.views[1].flipped
    for view in example.views:
        image, mask = pixels(dataset, view), mask_of(dataset, view)
        assert mask.size == image.size == example.bucket and mask.mode == "L"
        face = face_in(image)
        assert centre_of_mass(mask) == pytest.approx(middle(face), abs=0.12 * face.width)
        levels = np.asarray(mask)
        x, y = map(int, middle(face))
        assert levels[y, x] >= 250 and levels[-1, 0] <= 5 and levels[-1, -1] <= 5


def without_a_face(upload: Path) -> None:
    Image.fromarray(skimage.data.coffee()).save(upload / "coffee.png")


def test_without_a_face_the_most_detailed_part_is_taken_and_it_is_said(upload: Path) -> None:
    without_a_face(upload)
    astronaut().save(upload / "person.png")
    dataset = prepared(upload, concept_mode="face", mask="face")
    coffee, person = dataset.examples
    assert (coffee.crop_source, person.crop_source) == ("saliency", "face")
    assert coffee.views[0].mask is None and person.views[0].mask
    assert coffee.faces == () and len(person.faces) == 1
    no_mask, no_face = (line for line in coffee.warnings if "no face" in line)
    assert (
        no_mask.startswith("coffee.png: no face was detected for its mask")
        and "crop it yourself or remove it" in no_mask
    )
    assert no_face.startswith("coffee.png: no face was detected; ") and "Crop it yourself or remove it" in no_face
    assert not any("no face" in line for line in person.warnings)


def test_saliency_takes_the_part_with_most_to_see(upload: Path) -> None:
    on_a_wall((1600, 512), (1000, 0)).save(upload / "a.png")
    example = only(prepared(upload, aspect_ratio_bucketing=False))
    window = example.views[0].crop.window()
    assert example.crop_source == "saliency"
    assert window.left > 880 and window.left + window.width <= 1600
    centred = only(prepare([upload], build_settings(DataConfig, OPTIONS | {"crop": "centre"}), upload.parent / "2"))
    assert centred.crop_source == "centre"


def cut_out(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A red ellipse on a transparent background."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse(box, fill=(255, 0, 0, 255))
    return image


def test_alpha_masks_are_where_the_subject_is(upload: Path) -> None:
    cut_out((900, 500), (500, 60, 780, 400)).save(upload / "a.png")
    options = {"mask": "alpha", "horizontal_flip": True, "augmented_views": 2, "crop_jitter": 0.2, "color_jitter": 0.1}
    dataset = prepared(upload, aspect_ratio_bucketing=False, **options)
    example = only(dataset)
    assert example.crop_source == "mask"
    for view in example.views:
        image, mask = pixels(dataset, view), mask_of(dataset, view)
        assert mask.size == image.size == (256, 256)
        green = np.asarray(image.getchannel("G"), int)
        marked = np.asarray(mask, int)
        assert (np.abs(green / max(1, green.max()) + marked / 255 - 1) < 0.15).mean() > 0.99
        assert 0.1 < (marked > 128).mean() < 0.9
    left, right = (centre_of_mass(mask_of(dataset, view))[0] for view in example.views[:2])
    assert left + right == pytest.approx(256, abs=1)


def test_a_mask_turns_with_its_picture(upload: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    cut_out((512, 512), (20, 30, 200, 150)).save(upload / "a.png", exif=exif)
    dataset = prepared(upload, mask="alpha", crop="centre")
    view = only(dataset).views[0]
    assert centre_of_mass(mask_of(dataset, view)) == pytest.approx((256 - 45, 55), abs=1)
    green = ImageOps.invert(pixels(dataset, view).getchannel("G"))
    assert centre_of_mass(green) == pytest.approx(centre_of_mass(mask_of(dataset, view)), abs=1)


def test_a_picture_without_the_transparency_that_was_asked_for_is_named(upload: Path) -> None:
    astronaut().save(upload / "photo.jpg")
    cut_out((512, 512), (100, 100, 400, 400)).save(upload / "cut.png")
    cut, photo = prepared(upload, mask="alpha").examples
    assert cut.views[0].mask and not any("transparency" in line for line in cut.warnings)
    assert photo.views[0].mask is None
    assert any(line.startswith("photo.jpg: has no transparency for its mask") for line in photo.warnings)


def test_a_subject_that_was_cut_off_is_named(upload: Path) -> None:
    cut_out((900, 300), (5, 60, 200, 250)).save(upload / "a.png")
    lost = only(prepared(upload, mask="alpha", crop="centre", aspect_ratio_bucketing=False))
    assert any(line.startswith("a.png: its mask is empty in 1 of its 1 views") for line in lost.warnings)
    config = build_settings(DataConfig, OPTIONS | {"mask": "alpha", "aspect_ratio_bucketing": False})
    assert not any("is empty" in line for line in only(prepare([upload], config, upload.parent / "2")).warnings)


class Segmenter:
    """Stands in for CLIPSeg: records the prompts for each image size, and marks the left half."""

    asked: ClassVar[dict[tuple[int, int], list[str]]] = {}

    @classmethod
    def load(cls, source: str) -> "Segmenter":
        cls.asked = {}
        return cls()

    def segment(self, image: Image.Image, prompts: list[str]) -> SegmentedSubject:
        self.asked[image.size] = prompts
        mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, image.width // 2, image.height))
        return SegmentedSubject(mask)


def test_the_subject_is_searched_for_by_its_class(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess.crops.clipseg, "SubjectSegmenter", Segmenter)
    prior = upload.parent / "prior"
    for folder, side in ((upload / "rex", 300), (upload / "tom", 310), (prior, 320)):
        folder.mkdir()
        picture = astronaut().resize((side, side))
        (ImageOps.solarize(picture) if folder == prior else picture).save(folder / f"{side}.png")
    concepts = [
        {"trigger_word": "REX", "class_word": "dog", "folder": "rex"},
        {"trigger_word": "TOM", "class_word": "cat", "folder": "tom"},
    ]
    dataset = prepared(upload, mask="subject", concepts=concepts, preservation_data=str(prior), duplicates="keep")
    assert Segmenter.asked == {(300, 300): ["dog"], (310, 310): ["cat"], (320, 320): ["dog", "cat"]}
    assert all(centre_of_mass(mask_of(dataset, example.views[0]))[0] < 130 for example in dataset.examples)
    config = build_settings(DataConfig, OPTIONS | {"mask": "subject", "mask_prompt": "ears", "class_word": "dog"})
    prepare([upload], config, upload.parent / "2")
    assert set(map(tuple, Segmenter.asked.values())) == {("ears",)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_phone_s_heic_is_seen_as_it_was_taken(orientation: int, upload: Path) -> None:
    stored = Image.new("RGB", (360, 240), "white")
    stored.paste("red", (0, 0, 120, 120))
    stored.paste("blue", (240, 120, 360, 240))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(upload / "IMG_0001.HEIC", "HEIF", exif=exif.tobytes(), quality=95)
    seen = stored.transpose(TURNS[orientation]) if orientation in TURNS else stored
    image = decode(upload / "IMG_0001.HEIC").image
    assert image.size == seen.size
    assert np.abs(np.asarray(image, int) - np.asarray(seen, int)).mean() < 3
    dataset = prepared(upload)
    view = only(dataset).views[0]
    assert view.crop.original == seen.size
    assert np.abs(np.asarray(pixels(dataset, view), int) - np.asarray(apply_crop(seen, view.crop), int)).mean() < 3


@pytest.fixture(scope="module")
def swin2sr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved folder of a Swin2SR with a few thousand random weights, large ones, so that its output varies."""
    torch.manual_seed(0)
    config = Swin2SRConfig(
        image_size=16, embed_dim=8, depths=[2], num_heads=[2], window_size=4, upscale=2, initializer_range=0.1
    )
    folder = tmp_path_factory.mktemp("upscaler") / "tiny-swin2sr"
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("size", [(150, 90), (64, 64), (65, 129), (31, 17)])
def test_tiles_make_the_same_picture_as_one_piece(
    size: tuple[int, int], swin2sr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler, image = Upscaler.load(str(swin2sr)), astronaut().resize(size)
    whole = np.asarray(upscaler.enlarge(image), int)
    monkeypatch.setattr(preprocess.crops.upscale, "TILE", 64)
    tiled = upscaler.enlarge(image)
    assert tiled.size == (2 * size[0], 2 * size[1])
    assert whole.std() > 10
    assert np.abs(np.asarray(tiled, int) - whole).max() <= 1


def test_seams_show_without_surroundings(swin2sr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an overlap of the tiles, seams appear. This shows that the test above can fail."""
    upscaler, image = Upscaler.load(str(swin2sr)), astronaut().resize((128, 64))
    whole = np.asarray(upscaler.enlarge(image), int)
    monkeypatch.setattr(preprocess.crops.upscale, "TILE", 64)
    monkeypatch.setattr(preprocess.crops.upscale, "OVERLAP", 0)
    difference = np.abs(np.asarray(upscaler.enlarge(image), int) - whole).max(axis=(0, 2))
    assert difference.argmax() in range(2 * 64 - 20, 2 * 64 + 20) and difference.max() > 5


def test_small_pictures_are_enlarged_and_it_is_said(upload: Path, swin2sr: Path) -> None:
    small = astronaut().resize((150, 150))
    small.save(upload / "small.png")
    astronaut().save(upload / "large.png")
    dataset = prepared(upload, upscaler=str(swin2sr))
    large, example = dataset.examples
    assert [line for line in example.warnings if "enlarged" in line] == [
        f"small.png: enlarged 2 times by {swin2sr.name}"
    ]
    assert not any("enlarged" in line or "too small" in line for line in large.warnings)
    assert example.bucket == large.bucket == (256, 256)
    view = example.views[0]
    assert view.crop.original == (150, 150)
    made = apply_crop(Upscaler.load(str(swin2sr)).enlarge(small), view.crop)
    assert pixels(dataset, view).tobytes() == made.tobytes()
    assert pixels(dataset, large.views[0]).tobytes() == apply_crop(astronaut(), large.views[0].crop).tobytes()


def test_without_an_upscaler_they_are_trained_smaller_and_it_is_said(upload: Path) -> None:
    astronaut().resize((100, 100)).save(upload / "small.png")
    example = only(prepared(upload))
    assert max(example.bucket) <= 150
    assert any("small.png: 100×100 is too small for the resolution 256" in line for line in example.warnings)


def test_what_is_too_small_even_when_it_is_enlarged_is_named(upload: Path, swin2sr: Path) -> None:
    astronaut().resize((40, 40)).save(upload / "tiny.png")
    example = only(prepared(upload, upscaler=str(swin2sr)))
    assert max(example.bucket) <= 120
    (said,) = (line for line in example.warnings if "too small" in line)
    assert said.startswith("tiny.png: 40×40 is too small for the resolution 256, even enlarged 2 times; it is trained")
    assert "Use a larger image, or a lower resolution" in said and "upscaler" not in said


def test_the_mask_of_an_enlarged_picture_stays_aligned(upload: Path, swin2sr: Path) -> None:
    cut_out((140, 140), (10, 20, 70, 110)).save(upload / "a.png")
    dataset = prepared(upload, upscaler=str(swin2sr), mask="alpha", crop="centre")
    view = only(dataset).views[0]
    assert view.crop.enlargement() > 1
    assert centre_of_mass(mask_of(dataset, view)) == pytest.approx((40 * 256 / 140, 65 * 256 / 140), abs=1.5)


def test_a_missing_upscaler_is_an_error_before_any_picture_is_cut(upload: Path) -> None:
    astronaut().save(upload / "a.png")
    with pytest.raises(DatasetError, match=r"nowhere: cannot be loaded as a Swin2SR model .* leave it out"):
        prepared(upload, upscaler=str(upload.parent / "nowhere"))
    assert not (upload.parent / "dataset" / "images").exists()


def test_an_upscaler_that_lacks_weights_is_refused(upload: Path, tmp_path: Path) -> None:
    config = Swin2SRConfig(image_size=16, embed_dim=8, depths=[1], num_heads=[2], window_size=4)
    Swin2SRModel(config).save_pretrained(tmp_path / "half")
    with pytest.raises(DatasetError, match=r"half: .*lacks \d+ weights of the model, such as upsample"):
        Upscaler.load(str(tmp_path / "half"))

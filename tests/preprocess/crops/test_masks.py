"""Tests of masks from faces, from transparency and from words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer, ViTImageProcessor

from preprocess.crops.clipseg import SubjectSegmenter
from preprocess.crops.masks import centre_of_mass, face_mask, normalise, opacity_mask, read_mask
from preprocess.dataset import FaceBox
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import decode

TOKENIZER = Path(__file__).resolve().parents[3] / "assets" / "mini-sdxl" / "tokenizer"
SIDE = 64  # side of the small CLIPSeg's input in pixels


def level(mask: Image.Image, place: tuple[int, int]) -> int:
    """The mask's value at (x, y), 0 to 255."""
    return int(np.asarray(mask)[place[1], place[0]])


def test_a_face_mask_is_white_on_the_face_and_black_far_from_it() -> None:
    face = FaceBox(100, 60, 80, 100, 0.9)
    mask = face_mask(face, (400, 300))
    assert mask.mode == "L" and mask.size == (400, 300)
    assert level(mask, (140, 110)) >= 250
    assert level(mask, (140, 62)) > 128 and level(mask, (140, 30)) < 128  # forehead inside, end of the hair outside
    assert level(mask, (300, 110)) == level(mask, (140, 290)) == 0
    assert centre_of_mass(mask) == pytest.approx((140, 110), abs=1.5)


def test_a_face_mask_at_the_border_is_cut_and_not_moved() -> None:
    mask = face_mask(FaceBox(0, 0, 60, 60, 0.9), (200, 200))
    assert level(mask, (30, 30)) >= 250 and level(mask, (120, 120)) == 0


def grey_with_alpha() -> Image.Image:
    image = Image.new("LA", (60, 40), (128, 0))
    image.paste((128, 255), (10, 10, 20, 30))
    return image


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (60, 40), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (10, 10, 20, 30))
    image.info["transparency"] = 0
    return image


def colour_with_a_transparent_colour() -> Image.Image:
    image = Image.new("RGB", (60, 40), (0, 255, 0))
    image.paste((255, 0, 0), (10, 10, 20, 30))
    image.info["transparency"] = (0, 255, 0)
    return image


@pytest.mark.parametrize(
    "image",
    [
        grey_with_alpha(),
        grey_with_alpha().convert("RGBA"),
        palette_with_transparency(),
        colour_with_a_transparent_colour(),
    ],
    ids=["LA", "RGBA", "P", "RGB with a transparent colour"],
)
def test_transparency_in_any_form_is_a_mask(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "a.png")
    mask = opacity_mask(decode(tmp_path / "a.png").opacity)
    assert mask is not None and mask.mode == "L" and mask.size == (60, 40)
    assert mask.getbbox() == (10, 10, 20, 30) and level(mask, (12, 12)) == 255


@pytest.mark.parametrize("alpha", [None, 255, 128, 0])
def test_transparency_that_is_the_same_everywhere_tells_nothing(alpha: int | None, tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20)) if alpha is None else Image.new("RGBA", (20, 20), (1, 2, 3, alpha))
    image.save(tmp_path / "a.png")
    assert opacity_mask(decode(tmp_path / "a.png").opacity) is None


def test_the_mask_is_turned_with_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90° clockwise for display
    grey_with_alpha().convert("RGBA").save(tmp_path / "turned.png", exif=exif)
    mask = opacity_mask(decode(tmp_path / "turned.png").opacity)
    assert mask is not None and mask.size == (40, 60) and mask.getbbox() == (10, 10, 30, 20)


@given(st.integers(1, 255), st.sampled_from(["L", "RGB", "F", "I"]))
def test_a_normalised_mask_reaches_white(level: int, mode: str) -> None:
    mask = Image.new("L", (9, 9))
    mask.paste(level, (3, 3, 6, 6))
    normal = normalise(mask.convert(mode))
    assert normal.mode == "L" and normal.getextrema() == (0, 255) and normal.getbbox() == (3, 3, 6, 6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_black_and_white_mask_in_a_file_with_an_alpha_channel(mode: str, tmp_path: Path) -> None:
    mask = Image.new("L", (20, 20))
    mask.paste(255, (3, 3, 9, 9))
    mask.convert(mode).save(tmp_path / "a.mask.png")
    assert read_mask(tmp_path / "a.mask.png", (20, 20)).tobytes() == mask.tobytes()
    Image.new("L", (20, 20)).convert(mode).save(tmp_path / "black.mask.png")
    with pytest.raises(DatasetError, match="black everywhere"):
        read_mask(tmp_path / "black.mask.png", (20, 20))


def test_a_mask_that_is_only_transparency(tmp_path: Path) -> None:
    alpha = Image.new("L", (20, 20))
    alpha.paste(255, (3, 3, 9, 9))
    painted = Image.new("RGBA", (20, 20), "red")
    painted.putalpha(alpha)
    painted.save(tmp_path / "a.mask.png")
    assert read_mask(tmp_path / "a.mask.png", (20, 20)).tobytes() == alpha.tobytes()


def test_sixteen_bits_and_one_bit_are_masks_too() -> None:
    deep = Image.fromarray(np.array([[0, 30000], [60000, 15000]], np.uint16))
    assert np.asarray(normalise(deep)).tolist() == [[0, 128], [255, 64]]
    assert normalise(Image.fromarray(np.array([[True, False]]))).getextrema() == (0, 255)


def test_a_black_mask_is_an_error() -> None:
    with pytest.raises(DatasetError, match="black everywhere"):
        normalise(Image.new("L", (4, 4)))


def test_the_centre_of_mass_follows_the_mask() -> None:
    mask = Image.new("L", (100, 50))
    assert centre_of_mass(mask) == (50, 25)
    mask.paste(255, (80, 10, 90, 20))
    assert centre_of_mass(mask) == pytest.approx((85, 15))


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved folder of a CLIPSeg with 130,000 random weights and the real processor."""
    folder = tmp_path_factory.mktemp("clipseg")
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    words = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPSegConfig(
        text_config={**small, **words, "num_hidden_layers": 2},
        vision_config={**small, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 16},
        projection_dim=32,
        extract_layers=[0, 1, 2],
        reduce_dim=32,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    torch.manual_seed(0)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    CLIPSegProcessor(ViTImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def segmenter(clipseg_folder: Path) -> SubjectSegmenter:
    return SubjectSegmenter.load(clipseg_folder)


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    return Image.fromarray(noise)


def test_words_give_a_mask_of_the_pictures_size(segmenter: SubjectSegmenter, picture: Image.Image) -> None:
    subject = segmenter.segment(picture, ["robot"])
    assert subject.warnings == () and subject.mask is not None
    assert subject.mask.mode == "L" and subject.mask.size == picture.size
    levels = np.asarray(subject.mask)
    assert levels.max() == 255 and levels.min() < 128


def test_each_pixel_counts_for_the_prompt_that_answers_best(segmenter: SubjectSegmenter, picture: Image.Image) -> None:
    robot, ball = (segmenter._logits(picture, [prompt]) for prompt in ("robot", "a small red ball"))
    assert not torch.allclose(robot, ball, atol=1e-2)
    together = segmenter._logits(picture, ["robot", "a small red ball"])
    torch.testing.assert_close(together, torch.maximum(robot, ball), atol=1e-3, rtol=1e-3)


def test_what_nothing_answers_is_a_warning_and_no_mask(segmenter: SubjectSegmenter, picture: Image.Image) -> None:
    _answer_everywhere(segmenter, probability=0.2)
    subject = segmenter.segment(picture, ["zebra", "horse"])
    assert subject.mask is None
    assert "'zebra', 'horse' (probability 0.20, 0.3 is needed)" in subject.warnings[0]
    _answer_everywhere(segmenter, probability=0.4)
    assert segmenter.segment(picture, ["zebra"]).mask is not None


def _answer_everywhere(segmenter: SubjectSegmenter, probability: float) -> None:
    """Make the model's last layer return `probability` for every pixel."""
    last = [module for module in segmenter.model.decoder.modules() if isinstance(module, torch.nn.ConvTranspose2d)][-1]
    torch.nn.init.zeros_(last.weight)
    assert last.bias is not None
    torch.nn.init.constant_(last.bias, float(torch.tensor(probability).logit()))


def test_the_mask_lies_where_the_answer_is(
    segmenter: SubjectSegmenter, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = torch.full((SIDE, SIDE), -6.0)
    answer[:16, 48:] = 1.0  # the upper right corner
    monkeypatch.setattr(SubjectSegmenter, "_logits", lambda *_: answer)
    mask = segmenter.segment(picture, ["robot"]).mask
    assert mask is not None and level(mask, (190, 10)) == 255
    assert level(mask, (190, 110)) < 10 and level(mask, (10, 10)) < 10
    assert centre_of_mass(mask) == pytest.approx((175, 15), abs=4)


def test_prompts_are_needed(segmenter: SubjectSegmenter, picture: Image.Image) -> None:
    for prompts in ([], [" "]):
        with pytest.raises(DatasetError, match="need a prompt"):
            segmenter.segment(picture, prompts)


def test_only_safetensors_are_loaded(clipseg_folder: Path, tmp_path: Path) -> None:
    for file in clipseg_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DatasetError, match="safetensors"):
        SubjectSegmenter.load(tmp_path)

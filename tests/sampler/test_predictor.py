"""Tests of the predictor on the embedded base: all inputs of a request, and errors for invalid ones."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from families.family import ModelFamily
from sampler import generation as generation_module
from sampler.batches import draw_in_batches
from sampler.generation import Generation
from sampler.images.files import read_parameters
from sampler.images.starting_picture import drawn_size, fitted_mask, fitted_picture, size_of_ratio
from sampler.prompts.token_strength import parse_token_strength, with_token_strength
from sampler.request import ASPECT_RATIOS, RequestError
from sampler.sampler import Sampler, SampleRequest
from sampler.seeds import FIRST_WORD, generator_for, twister_words
from sampler.weights import ScaledArtifact
from service.prediction_inputs import Prediction, PredictionInputs, predict
from tests.artifact.test_artifact import make_artifact, write

Ask = Callable[..., Prediction]
QUICK = {"base_model": "mini-sdxl", "num_inference_steps": 2, "seed": 3, "width": 32, "height": 32}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def ask(base: ModelFamily, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return a function that sends requests to one predictor with a loaded base. Each answer has its own folder."""
    monkeypatch.setattr(generation_module, "load_base_model", lambda *arguments, **options: base)
    generation = Generation(said.append)
    count = iter(range(1000))

    def asked(prompt: str = "a photo of TOK", **inputs: Any) -> Prediction:
        folder = tmp_path / f"answer-{next(count)}"
        given = PredictionInputs(prompt, **{**QUICK, **inputs})
        return predict(given, generation, folder, local_files=True, say=said.append, metric=lambda name, value: None)

    return asked


@pytest.fixture
def weights(base: ModelFamily, tmp_path: Path) -> str:
    return str(write(make_artifact(base), tmp_path / "one.safetensors", base))


def pixels(prediction: Prediction) -> list[bytes]:
    return [Image.open(path).tobytes() for path in prediction.paths]


@pytest.mark.slow
def test_several_loras_each_at_its_scale(base: ModelFamily, ask: Ask, weights: str, tmp_path: Path) -> None:
    other = make_artifact(base, rank=2, size=0.3)
    assert other.description is not None
    other = replace(other, description=replace(other.description, triggers={"ANNA": ["<s0>", "<s1>"]}))
    second = str(write(other, tmp_path / "two.safetensors", base))
    bare, one = pixels(ask()), pixels(ask(lora=weights))
    both = ask("TOK and ANNA", lora=f"{weights}\n{second}", lora_scale="1, 0.5")
    assert both.triggers == ("TOK", "ANNA")
    assert pixels(both) != pixels(ask("TOK and ANNA", lora=f"{weights},{second}", lora_scale="0.5, 1"))
    assert bare != one
    assert pixels(ask()) == bare
    assert pixels(ask(lora=json.dumps([weights]))) == one


def test_the_trigger_is_a_whole_word_and_is_reported(ask: Ask, weights: str, said: list[str]) -> None:
    missing = "warning: the prompt does not contain the trigger word TOK; add it for the concept"
    ask("a TOKEN in Tokyo", lora=weights)
    assert "trigger words: TOK" in said and missing in said
    said.clear()
    ask("TOK's hat", lora=weights)
    assert missing not in said
    assert "seed: 3" in said and "generating: 100 %" in said


def test_a_long_prompt_with_weights_is_drawn(ask: Ask, weights: str, said: list[str]) -> None:
    """The prompt has 93 tokens. The last word and its weight still have an effect."""
    prompt = "a photo of (TOK:1.1), " + "small " * 85 + "({}:{:g}) star"
    answers = {
        pixels(ask(prompt.format(word, weight), lora=weights))[0] for word in ("red", "blue") for weight in (1, 2)
    }
    assert len(answers) == 4
    assert any(line.startswith("prompt: 93 tokens are encoded in parts of up to 75") for line in said), said


@pytest.mark.slow
def test_empty_names_are_names_that_are_not_given(ask: Ask, weights: str) -> None:
    """Web forms send empty names."""
    names = ("replicate_weights", "base_model", "vae", "refiner", "safety_checker", "controlnet")
    plain = ask("a photo of TOK", lora=weights)
    assert pixels(ask("a photo of TOK", lora=weights, **dict.fromkeys(names, " "))) == pixels(plain)


def test_the_strength_of_a_trigger_word(ask: Ask, weights: str) -> None:
    full = pixels(ask(lora=weights))
    assert pixels(ask(lora=weights, token_strength="TOK=1")) == full
    half = pixels(ask(lora=weights, token_strength="0.5"))
    assert half != full and half == pixels(ask(lora=weights, token_strength="TOK = 0.5"))
    with pytest.raises(RequestError, match="no LoRA has the trigger word ANNA; known are TOK"):
        ask(lora=weights, token_strength="ANNA=1")


def test_strengths_scale_the_rows(base: ModelFamily) -> None:
    lora = ScaledArtifact(make_artifact(base), 1.0, "one")
    (scaled,) = with_token_strength([lora], parse_token_strength("TOK=0.25"))
    for name, rows in lora.artifact.tokens.items():
        assert torch.equal(scaled.artifact.tokens[name], rows * 0.25)
    assert parse_token_strength("0.5, ANNA=2") == {"": 0.5, "ANNA": 2.0}
    for wrong in ("x", "TOK=", "5", "TOK=-1", "nan"):
        with pytest.raises(RequestError, match="token_strength"):
            parse_token_strength(wrong)


@pytest.mark.parametrize("output_format", ["png", "webp", "jpg"])
def test_files_hold_their_generation_parameters(output_format: str, ask: Ask, weights: str) -> None:
    answer = ask(
        "a photo of TOK, (grün) 日本", negative_prompt="blurry", lora=weights, num_outputs=2, clip_skip=1,
        seed=2**64 - 2, scheduler="dpmpp_2m_karras", output_format=output_format, output_quality=70, width=48,
    )  # fmt: skip
    assert [path.name for path in answer.paths] == [f"00.{output_format}", f"01.{output_format}"]
    assert [read_parameters(path) for path in answer.paths] == answer.parameters
    assert answer.parameters[1] == (
        "a photo of TOK, (grün) 日本\nNegative prompt: blurry\n"
        "Steps: 2, Sampler: DPM++ 2M Karras, CFG scale: 6, Seed: 18446744073709551615, Size: 48x32, Model: mini-sdxl, "
        'Clip skip: 2, Loras: "one.safetensors: 1"'
    )
    with Image.open(answer.paths[0]) as image:
        assert (image.size, image.format) == ((48, 32), {"jpg": "JPEG"}.get(output_format, output_format.upper()))


def test_seeds_of_64_bits_follow_each_other(ask: Ask) -> None:
    first, second = pixels(ask(seed=2**63, num_outputs=2))
    (alone,) = pixels(ask(seed=2**63 + 1))
    assert np.abs(np.frombuffer(alone, np.uint8).astype(int) - np.frombuffer(second, np.uint8)).max() <= 1
    assert first != second != pixels(ask(seed=1))[0]
    one, other = ask(seed=None), ask(seed=None)
    assert one.seed != other.seed
    assert pixels(ask(seed=one.seed)) == pixels(one)


def picture(size: tuple[int, int] = (64, 64)) -> Image.Image:
    ramp = np.linspace(0, 255, size[0], dtype=np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (size[1], 1))] * 3, axis=-1))


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    picture().save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.slow
def test_a_picture_to_start_from(ask: Ask, picture_file: Path) -> None:
    start = np.asarray(picture().resize((32, 32)), dtype=float)

    def distance(strength: float) -> float:
        answer = ask("a red star", image=picture_file, strength=strength, num_inference_steps=5)
        assert f"Denoising strength: {strength:g}" in answer.parameters[0]
        return float(np.abs(np.asarray(Image.open(answer.paths[0]), dtype=float) - start).mean())

    assert distance(0.2) < distance(1.0)


def test_only_the_white_of_the_mask_is_drawn(ask: Ask, picture_file: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    mask.save(tmp_path / "mask.png")
    answer = ask(
        "a red star", image=picture_file, mask=tmp_path / "mask.png", strength=1.0, num_outputs=2, width=64, height=64
    )
    assert len(answer.paths) == 2
    for path in answer.paths:
        result, start = np.asarray(Image.open(path)), np.asarray(picture())
        assert np.array_equal(result[:, :32], start[:, :32])
        assert not np.array_equal(result[:, 32:], start[:, 32:])


@pytest.mark.parametrize(
    ("size", "asked", "drawn"),
    [
        ((4000, 3000), {}, (80, 48)),
        ((64, 64), {}, (64, 64)),
        ((20, 30), {}, (16, 32)),
        ((5, 5), {}, (16, 16)),
        ((400, 200), {"width": 96}, (96, 48)),
        ((400, 200), {"width": 32, "height": 64}, (32, 64)),
    ],
)
def test_sizes_of_pictures(
    size: tuple[int, int], asked: dict[str, int], drawn: tuple[int, int], base: ModelFamily
) -> None:
    request = SampleRequest("x", image=Image.new("RGB", size), **asked)  # type: ignore[arg-type]
    assert drawn_size(request, base) == drawn


RATIOS = ASPECT_RATIOS[1:]


@pytest.mark.parametrize("ratio", RATIOS)
def test_sizes_of_aspect_ratios(ratio: str, base: ModelFamily) -> None:
    """One base has the native resolution of common bases, the other also has a limit of 1280 pixels per side."""
    across, down = map(int, ratio.split(":"))

    class Large:
        native_resolution, size_multiple = 1024, 16
        largest_side: int | None = None

    class Limited(Large):
        largest_side = 1280

    for family in (Large, Limited):
        width, height = size_of_ratio(ratio, cast(ModelFamily, family()))
        assert width % 16 == height % 16 == 0 and max(width, height) <= (family.largest_side or 4096)
        assert abs(width / height / (across / down) - 1) < 0.05
        if family.largest_side is None:
            assert abs(width * height / 1024**2 - 1) < 0.04
    request = SampleRequest("x", aspect_ratio=ratio, image=Image.new("RGB", (400, 100)))
    assert drawn_size(request, base) == size_of_ratio(ratio, base)  # the image is cropped to it


def test_an_aspect_ratio_draws_that_size_and_goes_with_no_other(ask: Ask) -> None:
    (path,) = ask(width=None, height=None, aspect_ratio="3:2").paths
    with Image.open(path) as image:
        assert image.size == (80, 48)
    for inputs, said in (
        ({"aspect_ratio": "3:2", "height": None}, "cannot be combined with width or height"),
        ({"aspect_ratio": "7:5"}, "'7:5' is not one of native, 1:1"),
    ):
        with pytest.raises(RequestError, match=f"^aspect_ratio: {said}"):
            ask(**inputs)


def test_odd_pictures_are_brought_into_shape() -> None:
    transparent = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert fitted_picture(transparent, (16, 32)).getpixel((3, 3)) == (255, 255, 255)
    turned = Image.new("RGB", (20, 10))
    turned.paste((255, 0, 0), (0, 0, 10, 10))
    turned.getexif()[0x0112] = 6  # a quarter turn clockwise: left becomes top
    assert fitted_picture(turned, (10, 20)).getpixel((5, 2)) == (255, 0, 0)
    assert fitted_mask(Image.new("RGB", (5, 5), (200, 200, 200)), (8, 8)).getcolors() == [(64, 255)]


def test_clip_skip_is_that_of_diffusers(base: ModelFamily) -> None:
    from families.sdxl import SDXL

    assert isinstance(base, SDXL)
    wanted, _, pooled, _ = base.pipeline().encode_prompt("a red star", do_classifier_free_guidance=False, clip_skip=1)
    ours = base.encode_prompts_early(["a red star"], 1)
    torch.testing.assert_close(ours.prompt_embeds, wanted)
    torch.testing.assert_close(ours.pooled_prompt_embeds, pooled)
    assert not torch.equal(ours.prompt_embeds, base.encode_prompts(["a red star"]).prompt_embeds)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompt": "star " * 601}, r"prompt: has 601 tokens; the limit is 600"),
        ({"prompt": "x", "negative_prompt": "star " * 700}, "negative_prompt: has 700 tokens"),
        ({"prompt": "a (red:3) star"}, r"prompt: the weight in \(red:3\) must be between 0 and 2"),
        ({"width": 100}, "width: 100 must be a multiple of 16"),
        ({"num_outputs": 9}, "num_outputs"),
        ({"scheduler": "fast"}, "scheduler: 'fast' is not supported"),
        ({"seed": 2**64}, "seed: must be between"),
        ({"seed": -1}, "seed: must be between"),
        ({"seed": 2**64 - 1, "num_outputs": 2}, "including the seed of the last image"),
        ({"clip_skip": 9}, "clip_skip: must be between 0 and"),
        ({"output_format": "gif"}, "output_format: 'gif' is not one of png, webp, jpg"),
        ({"output_quality": 0}, "output_quality"),
        ({"strength": 0.1, "image": "PICTURE"}, "strength: 0.1 of 2 steps is less than one step"),
        ({"strength": 0.0, "image": "PICTURE"}, "strength: 0 must be above 0"),
        ({"mask": "PICTURE"}, "mask: needs image"),
        ({"image": "missing.png"}, "image: cannot be read as an image"),
        ({"lora": "a", "replicate_weights": "b"}, "two names of the same input"),
    ],
)
def test_what_is_refused(inputs: dict[str, Any], message: str, ask: Ask, picture_file: Path) -> None:
    given = {name: picture_file if value == "PICTURE" else value for name, value in inputs.items()}
    for name in ("image", "mask"):
        if name in given:
            given[name] = Path(given[name])
    with pytest.raises(RequestError, match=message):
        ask(**given)


def test_batches_are_halved_until_they_fit() -> None:
    drawn: list[Sequence[int]] = []

    def draw(seeds: Sequence[int]) -> list[Image.Image]:
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("full")
        drawn.append(list(seeds))
        return [Image.new("L", (1, 1), seed) for seed in seeds]

    images = list(draw_in_batches(range(10, 17), draw))
    assert [(row, image.getpixel((0, 0))) for row, image in images] == [(row, row) for row in range(10, 17)]
    assert drawn == [[10, 11], [12, 13], [14, 15], [16]]

    def never(seeds: Sequence[int]) -> list[Image.Image]:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(RequestError, match="Lower width and height"):
        list(draw_in_batches([1, 2], never))


@pytest.mark.slow
def test_images_are_the_same_in_any_batch(base: ModelFamily) -> None:
    request = SampleRequest("a red star", num_outputs=3, num_inference_steps=2, seed=5)
    together = Sampler(base).generate(request)
    for index, image in enumerate(together):
        alone = Sampler(base).generate(replace(request, num_outputs=1, seed=5 + index))[0]
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(alone, dtype=int)).max() <= 1


def test_several_requests_are_drawn_together_and_each_gets_its_own(base: ModelFamily) -> None:
    """Long prompts, which are encoded in parts, can be combined with short ones."""
    long = "a red star on a blue background, " * 12
    requests = [
        SampleRequest("a red star", num_inference_steps=2, num_outputs=2, seed=5),
        SampleRequest(long, num_inference_steps=2),
        SampleRequest("a blue circle", num_inference_steps=2, seed=9),
    ]
    together = Sampler(base).generate_several(requests)
    assert [len(images) for images in together] == [2, 1, 1]
    for request, images in zip(requests, together, strict=True):
        for image, alone in zip(images, Sampler(base).generate(request), strict=True):
            assert np.abs(np.asarray(image, dtype=int) - np.asarray(alone, dtype=int)).max() <= 1
    with pytest.raises(ValueError, match="may differ only in prompt"):
        Sampler(base).generate_several([requests[0], replace(requests[0], guidance_scale=1.0)])


@pytest.mark.slow
def test_ten_swaps_leave_exactly_the_base(base: ModelFamily, ask: Ask, weights: str) -> None:
    before = pixels(ask())
    tables = [encoder.get_input_embeddings() for encoder in base.text_encoders]
    for swap in range(10):
        ask(lora=weights, lora_scale=str(0.1 * swap), num_inference_steps=1)
    assert pixels(ask()) == before
    assert [encoder.get_input_embeddings() for encoder in base.text_encoders] == tables


def test_a_failed_load_leaves_the_predictor_as_it_was(ask: Ask, weights: str, tmp_path: Path) -> None:
    before = pixels(ask(lora=weights))
    tensors = {
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 3),
        "lora_unet_nowhere.lora_up.weight": torch.ones(3, 2),
    }
    (tmp_path / "foreign.safetensors").write_bytes(save(tensors))
    with pytest.raises(ArtifactError, match="do not exist in this base"):
        ask(lora=f"{weights}\n{tmp_path / 'foreign.safetensors'}")
    assert pixels(ask(lora=weights)) == before


def test_artifacts_are_read_whatever_their_file_is_called(weights: str, tmp_path: Path) -> None:
    renamed = tmp_path / "weights, of mine.safetensors"
    renamed.write_bytes(Path(weights).read_bytes())
    assert Artifact.read(renamed).description is not None


def test_seeds_beyond_32_bits_are_seeds_of_their_own() -> None:
    draws = {seed: generator_for(seed) for seed in (1, 2**32 + 1, 2**33 + 1, 2**63 + 1, 2**64 - 1)}
    numbers = {seed: tuple(torch.randn(8, generator=generator).tolist()) for seed, generator in draws.items()}
    assert len(set(numbers.values())) == len(draws)
    assert numbers[1] == tuple(torch.randn(8, generator=torch.Generator().manual_seed(1)).tolist())
    words = twister_words(1)  # torch's state contains these words at FIRST_WORD
    state = torch.Generator().manual_seed(1).get_state().numpy()
    assert np.array_equal(state[FIRST_WORD : FIRST_WORD + 8 * 624].view(np.uint64), words)
    assert abs(torch.randn(10_000, generator=generator_for(2**40)).std().item() - 1) < 0.03

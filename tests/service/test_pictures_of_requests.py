"""Input images of the predictor: upright, in 8 bits, and only in formats that run no program."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from sampler.images.starting_picture import drawn_size
from sampler.request import RequestError, SampleRequest
from service.predict_command import recorded
from service.prediction_inputs import PredictionInputs, build_request
from service.prediction_options import PredictionOptions

BASE: Any = SimpleNamespace(native_resolution=96, size_multiple=8, largest_side=None)
ORIENTATION, TURNED = 0x112, 6


def test_a_turned_photograph_keeps_its_shape(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    Image.new("RGB", (96, 64)).save(tmp_path / "a.jpg", exif=exif)
    request = build_request(PredictionInputs("a", image=tmp_path / "a.jpg"))
    assert request.image is not None and request.image.size == drawn_size(request, BASE) == (64, 96)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert drawn_size(SampleRequest("a", image=stored), BASE) == (64, 96)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)).save(tmp_path / "depth.png")
    image = build_request(PredictionInputs("a", image=tmp_path / "depth.png")).image
    assert image is not None
    assert np.asarray(image).ravel().tolist() == list(range(256))


def test_transparency_is_kept_for_inpainting(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / "a.png")
    request = build_request(PredictionInputs("a", image=tmp_path / "a.png"))
    assert request.image is not None and request.image.mode == "RGBA"


def test_a_program_in_place_of_an_image_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: pytest.fail("it was run"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(RequestError, match="image: cannot be read as an image"):
        build_request(PredictionInputs("a", image=path))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"prompt": "a \ud83d"}, "half of a character"),
        ({"prompt": "a" * 20_000, "negative_prompt": "b" * 20_000, "output_format": "jpg"}, "set png"),
    ],
)
def test_prompts_that_no_file_can_hold(inputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        build_request(PredictionInputs(**inputs))


@pytest.mark.parametrize(("sides", "width"), [((640, 64), None), ((64, 640), 64)])
def test_a_long_picture_is_not_drawn_longer_than_the_base_can(sides: tuple[int, int], width: int | None) -> None:
    base: Any = SimpleNamespace(native_resolution=96, size_multiple=8, largest_side=132)
    assert max(drawn_size(SampleRequest("a", image=Image.new("RGB", sides), width=width), base)) == 128


def test_the_file_of_parameters_contains_no_token() -> None:
    options = PredictionOptions(lora="https://me:key@example.org/a?token=x, b.safetensors", controlnet="c/d", seed=3)
    values = recorded(options)
    assert values["lora"] == "https://example.org/a, b.safetensors"
    assert (values["controlnet"], values["seed"]) == ("c/d", 3) and "replicate_weights" not in values

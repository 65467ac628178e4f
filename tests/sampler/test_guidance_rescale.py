"""Tests of guidance rescale (Lin et al. 2023, §3.4): it is that of diffusers, and refused by pipelines without it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from sampler.generation import Generation
from sampler.request import RequestError
from service.prediction_inputs import Prediction, PredictionInputs, predict
from tests.tiny_models import write_sd2_v, write_sd3, write_sd15, write_sdxl, write_sdxl_refiner

PROMPT = "a red star"
RECALLED = "guidance_rescale is 0: this base model has zero terminal SNR, so guidance may overexpose; usually 0.7"
WRITERS: dict[str, Callable[[Path], Path]] = {
    "sd15": write_sd15, "sd2-zero-snr": partial(write_sd2_v, zero_terminal_snr=True), "sd2-v": write_sd2_v,
    "sdxl": write_sdxl, "sd3": write_sd3, "refiner": write_sdxl_refiner,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, write in WRITERS.items():
        write(folder / name)
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(folder / "picture.png")
    return folder


def draw(models: Path, folder: Path, name: str, said: list[str] | None = None, **inputs: Any) -> Prediction:
    usual = {"base_model": str(models / name), "num_inference_steps": 3, "seed": 4, "width": 64, "height": 64}
    say = (said if said is not None else []).append
    given = PredictionInputs(PROMPT, **{**usual, **inputs})
    return predict(given, Generation(say), folder, say=say, metric=lambda name, value: None)


def pixels(prediction: Prediction) -> Any:
    return np.asarray(Image.open(prediction.paths[0]), dtype=int)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sd2-zero-snr", "sdxl"])
def test_it_is_that_of_diffusers(name: str, models: Path, tmp_path: Path) -> None:
    rescaled = draw(models, tmp_path / "a", name, guidance_scale=8.0, guidance_rescale=0.7)
    pipeline: Any = DiffusionPipeline.from_pretrained(models / name, safety_checker=None)
    wanted = pipeline(
        PROMPT, num_inference_steps=3, guidance_scale=8.0, guidance_rescale=0.7, width=64, height=64,
        generator=torch.Generator().manual_seed(4),
    ).images[0]  # fmt: skip
    assert np.abs(pixels(rescaled) - np.asarray(wanted, dtype=int)).max() <= 1
    assert ", CFG Rescale: 0.7" in rescaled.parameters[0]
    plain = draw(models, tmp_path / "b", name, guidance_scale=8.0)
    assert np.abs(pixels(rescaled) - pixels(plain)).max() > 0
    assert "Rescale" not in plain.parameters[0]


def test_sdxl_has_it_from_a_picture_with_a_mask_and_with_a_refiner(models: Path, tmp_path: Path) -> None:
    picture = models / "picture.png"
    ways: list[dict[str, Any]] = [
        {"image": picture},
        {"image": picture, "mask": picture},
        {"refiner": str(models / "refiner"), "refiner_start": 0.5},
    ]
    for number, inputs in enumerate(ways):
        both = [
            draw(models, tmp_path / f"{number}-{value}", "sdxl", guidance_scale=8.0, guidance_rescale=value, **inputs)
            for value in (0.0, 1.0)
        ]
        assert np.abs(pixels(both[0]) - pixels(both[1])).max() > 1


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("sd15", {"image": "picture.png"}, "guidance_rescale: diffusers' StableDiffusionImg2ImgPipeline"),
        ("sd15", {"image": "picture.png", "mask": "picture.png"}, "StableDiffusionInpaintPipeline does not support it"),
        ("sd3", {}, "guidance_rescale: diffusers' StableDiffusion3Pipeline does not support it"),
        ("sdxl", {"guidance_rescale": 1.1}, "guidance_rescale: 1.1 must be between 0 and 1"),
        ("sdxl", {"guidance_rescale": float("nan")}, "guidance_rescale: nan must be"),
    ],
)
def test_where_there_is_none_it_is_refused(
    name: str, inputs: dict[str, Any], message: str, models: Path, tmp_path: Path
) -> None:
    given = {key: models / value if isinstance(value, str) else value for key, value in inputs.items()}
    with pytest.raises(RequestError, match=message):
        draw(models, tmp_path / "a", name, None, **{"guidance_rescale": 0.5, **given})
    if "guidance_rescale" not in given:
        draw(models, tmp_path / "b", name, None, **given)  # 0 is accepted


@pytest.mark.parametrize(
    ("name", "inputs", "line", "expected"),
    [
        ("sd2-zero-snr", {}, RECALLED, True),
        ("sd2-zero-snr", {"guidance_rescale": 0.3}, RECALLED, False),
        ("sd2-zero-snr", {"guidance_scale": 1.0}, RECALLED, False),
        ("sd2-zero-snr", {"image": "picture.png"}, RECALLED, False),
        ("sd2-v", {}, RECALLED, False),
        ("sdxl", {}, RECALLED, False),
        ("sd3", {}, RECALLED, False),
        ("sdxl", {"guidance_scale": 1.0, "guidance_rescale": 0.3}, "warning: guidance_rescale has no effect", True),
    ],
)
def test_what_is_reported(
    name: str, inputs: dict[str, Any], line: str, expected: bool, models: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    given = {key: models / value if isinstance(value, str) else value for key, value in inputs.items()}
    draw(models, tmp_path / "a", name, said, **given)
    assert any(one.startswith(line) for one in said) is expected, said

"""One artifact, drawn by the trainer's own model, the plain command, and the Cog server."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from families.family import ModelFamily
from sampler.sampler import Sampler, SampleRequest
from tests.cog_server import CogServer, decode
from tests.conftest import PROJECT
from tests.test_training import CONFIG, placed

pytestmark = pytest.mark.slow

PROMPT = "a photo of TOK on a blue background"
DRAWN: dict[str, Any] = {"num_outputs": 2, "num_inference_steps": 4, "seed": 11}
TOLERANCE = 1
"""Of 255 levels in any channel of any pixel: fp32 sums in another order may round to the next level."""


def pixels(image: Image.Image) -> "np.ndarray[Any, np.dtype[np.int16]]":
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_three_ways_draw_the_same_images(base: ModelFamily, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    request = SampleRequest(PROMPT, **DRAWN)
    bare = Sampler(base).generate(request)

    for training in placed(base, CONFIG.model_copy(update={"save_precision": "fp32"}), tmp_path):  # (a) in memory
        list(training.trainer.steps())
        in_memory = [pixels(image) for image in Sampler(base).generate(request, training.triggers)]
        training.write(weights)
    effect = np.mean([np.abs(image - pixels(before)).mean() for image, before in zip(in_memory, bare, strict=True)])
    assert effect > 3 * TOLERANCE, "the training must show, or this test could not fail"

    options = [f"--{name}={value}" for name, value in DRAWN.items()]
    command = [
        sys.executable,
        "predict.py",
        PROMPT,
        "--weights",
        str(weights),
        "--output",
        str(tmp_path / "plain"),
        *options,
    ]
    plain = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=180)
    by_command = [pixels(Image.open(path)) for path in plain.stdout.splitlines()]  # (b)

    with CogServer("predict", tmp_path / "server.log", {"COG_WEIGHTS": str(weights)}) as server:  # (c)
        result = server.post("predictions", {"prompt": PROMPT, **DRAWN})
    assert result["status"] == "succeeded" and result["metrics"]["seed"] == 11, result
    by_server = [pixels(Image.open(io.BytesIO(decode(uri)))) for uri in result["output"]]

    for name, images in (("command", by_command), ("server", by_server)):
        for index, (image, expected) in enumerate(zip(images, in_memory, strict=True)):
            assert np.abs(image - expected).max() <= TOLERANCE, f"{name}, image {index}"

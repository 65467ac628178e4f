"""Tests that the trained model in memory, predict.py, the Cog server and diffusers generate the same images."""

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from artifact.conversion.convert import convert
from families.family import ModelFamily
from families.loading.sources import EMBEDDED_BASE_FOLDER
from sampler.sampler import Sampler, SampleRequest
from tests.conftest import PROJECT
from tests.service.cog_server import CogServer, decode
from tests.trainer.test_training import CONFIG, placed
from tests.warm_process import run_warm

pytestmark = pytest.mark.slow

PROMPT = "a photo of TOK on a blue background"
DRAWN: dict[str, Any] = {"num_outputs": 2, "num_inference_steps": 4, "seed": 11, "guidance_scale": 5.0}
TOLERANCE = 1
"""Largest difference, of 255 levels in any channel of any pixel: fp32 sums in another order may be rounded to the next
level."""

Pixels = npt.NDArray[np.int16]


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def old_configuration(folder: Path) -> Path:
    """Copy the embedded base with the wrong end-of-text token that SDXL's published configuration states."""
    shutil.copytree(EMBEDDED_BASE_FOLDER, folder)
    for encoder in ("text_encoder", "text_encoder_2"):
        path = folder / encoder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 2}))
    return folder


def by_diffusers(base_model: Path, weights: Path, embeddings: Path) -> StableDiffusionXLPipeline:
    """Return a pipeline that is loaded by the code for diffusers in docs/artifact.md."""
    pipe = StableDiffusionXLPipeline.from_pretrained(base_model, dtype=torch.float32, add_watermarker=False)
    pipe.load_lora_weights(weights.parent, weight_name=weights.name)
    rows = load_file(embeddings)
    tokens = [f"<s{i}>" for i in range(len(rows["clip_l"]))]
    pipe.load_textual_inversion(rows["clip_l"], token=tokens, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(
        rows["clip_g"], token=tokens, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
    )
    pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_by(pipe: StableDiffusionXLPipeline, **inputs: Any) -> list[Pixels]:
    """Return the pipeline's images for the same request."""
    seeds = range(DRAWN["seed"], DRAWN["seed"] + DRAWN["num_outputs"])
    images = pipe(
        PROMPT.replace("TOK", "<s0><s1>"),
        num_images_per_prompt=len(seeds),
        num_inference_steps=DRAWN["num_inference_steps"],
        guidance_scale=DRAWN["guidance_scale"],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **inputs,
    ).images
    return [pixels(image) for image in images]


def test_four_ways_draw_the_same_images(base: ModelFamily, tmp_path: Path) -> None:
    weights, embeddings = tmp_path / "weights.safetensors", tmp_path / "embeddings.safetensors"
    request = SampleRequest(PROMPT, **DRAWN)
    blank = replace(request, negative_prompt=" ")
    bare = Sampler(base).generate(request)

    for training in placed(base, CONFIG.model_copy(update={"save_precision": "fp32"}), tmp_path):  # (a) in memory
        list(training.trainer.steps())
        in_memory = [pixels(image) for image in Sampler(base).generate(request, training.triggers)]
        training.write(weights)
        training.artifact().write_embeddings(embeddings)
        encoded = [pixels(image) for image in Sampler(base).generate(blank, training.triggers)]
    effect = np.mean([np.abs(image - pixels(before)).mean() for image, before in zip(in_memory, bare, strict=True)])
    assert effect > 3 * TOLERANCE, "the training must show, or this test could not fail"

    options = [f"--{name}={value}" for name, value in DRAWN.items()]
    command = ["predict.py", PROMPT, "--weights", str(weights), "--output", str(tmp_path / "plain"), *options]
    plain = run_warm(command, PROJECT)
    assert plain.returncode == 0, plain.stderr
    by_command = [pixels(Image.open(path)) for path in plain.stdout.splitlines()]  # (b)

    with CogServer("predict", tmp_path / "server.log", {"COG_WEIGHTS": str(weights)}) as server:  # (c)
        result = server.post("predictions", {"prompt": PROMPT, **DRAWN})
    assert result["status"] == "succeeded" and result["metrics"]["seed"] == 11, result
    by_server = [pixels(Image.open(io.BytesIO(decode(uri)))) for uri in result["output"]]

    require_same({"command": by_command, "server": by_server}, in_memory)

    convert(weights, tmp_path / "diffusers.safetensors", "diffusers")  # (d)
    base_model = old_configuration(tmp_path / "base")
    for name in ("weights", "diffusers"):
        pipe = by_diffusers(base_model, tmp_path / f"{name}.safetensors", embeddings)
        require_same({f"diffusers, {name}": drawn_by(pipe)}, in_memory)
    require_same({"diffusers, nothing read as text": drawn_by(pipe, negative_prompt="")}, encoded)
    assert np.abs(encoded[0] - in_memory[0]).max() > 3 * TOLERANCE, "zeros are not the features of an empty text"


def require_same(ways: Mapping[str, Sequence[Pixels]], expected: Sequence[Pixels]) -> None:
    for name, images in ways.items():
        differences = [int(np.abs(image - other).max()) for image, other in zip(images, expected, strict=True)]
        assert max(differences) <= TOLERANCE, f"{name}: images differ by {differences}"

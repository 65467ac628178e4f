"""Tests of the safety checker of a request: flagged images are withheld, and models that are no checker are refused."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from families.errors import BaseModelError
from sampler.generation import Generation
from sampler.images.safety_checker import SafetyChecker
from sampler.request import RequestError
from service.prediction_inputs import Prediction, PredictionInputs, predict
from tests.conftest import PROJECT

SIDE = 16
CPU = torch.device("cpu")
NEVER = 2.0
"""A threshold that no cosine reaches."""
QUICK = PredictionInputs(
    "a red star", base_model="mini-sdxl", num_outputs=3, num_inference_steps=2, seed=3, width=32, height=32
)


def write_checker(folder: Path, forbidden: Image.Image | None, allowed: list[Image.Image]) -> Path:
    """Write a random checker that flags the image `forbidden`, and none of `allowed`, and return its folder."""
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": SIDE, "patch_size": 4}
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=tower, projection_dim=8)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
        model.concept_embeds_weights.fill_(NEVER)
        model.special_care_embeds_weights.fill_(NEVER)
        if forbidden is not None:
            pixels = processor(images=[forbidden, *allowed], return_tensors="pt").pixel_values
            features = torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels)[1]))
            nearest = float((features[1:] @ features[0]).max()) if allowed else -1.0
            assert nearest < 0.998, nearest  # the checker rounds to 0.001: it distinguishes no nearer ones
            model.concept_embeds[0] = features[0]
            model.concept_embeds_weights[0] = (1 + nearest) / 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


def draw(inputs: PredictionInputs, folder: Path, said: list[str], metrics: dict[str, float | int]) -> Prediction:
    return predict(inputs, Generation(said.append), folder, say=said.append, metric=metrics.__setitem__)


def opened(prediction: Prediction) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in prediction.paths]


def with_checker(location: Path | str, num_outputs: int = 3) -> PredictionInputs:
    return replace(QUICK, safety_checker=str(location), num_outputs=num_outputs)


def test_what_is_flagged_is_withheld_and_named(tmp_path: Path, said: list[str]) -> None:
    first, second, third = images = opened(draw(QUICK, tmp_path / "all", said, {}))
    checker = write_checker(tmp_path / "checker", second, [first, third])

    said.clear()
    metrics: dict[str, float | int] = {}
    prediction = draw(with_checker(checker), tmp_path / "some", said, metrics)
    assert [path.name for path in prediction.paths] == ["00.png", "02.png"]  # numbers are those of the seeds
    assert [image.tobytes() for image in opened(prediction)] == [images[0].tobytes(), images[2].tobytes()]
    assert [f"Seed: {seed}," in text for seed, text in zip((3, 5), prediction.parameters, strict=True)] == [True] * 2
    assert metrics["withheld_images"] == 1
    assert [line for line in said if "withheld" in line] == [
        "warning: safety_checker: image 2 of 3 (seed 4) was flagged and is withheld. Change the prompt or the seed."
    ]


def test_nothing_flagged_nothing_said_and_all_flagged_is_an_error(tmp_path: Path, said: list[str]) -> None:
    (image,) = opened(draw(with_checker(write_checker(tmp_path / "mild", None, []), 1), tmp_path / "a", said, {}))
    assert not any("safety_checker" in line for line in said)
    strict = write_checker(tmp_path / "strict", image, [])
    with pytest.raises(RequestError, match="safety_checker: the image was flagged, so there is nothing to return"):
        draw(with_checker(strict, 1), tmp_path / "b", said, {})
    assert not (tmp_path / "b").exists()


def colours() -> tuple[Image.Image, Image.Image]:
    return Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")


def test_a_pipelines_own_checker_in_the_names_of_older_files(tmp_path: Path) -> None:
    """Published checkers have two folders of a pipeline, and the vision tower's names are one level deeper."""
    red, blue = colours()
    checker = write_checker(tmp_path / "pipeline" / "safety_checker", red, [blue])
    (tmp_path / "pipeline" / "feature_extractor").mkdir()
    shutil.move(checker / "preprocessor_config.json", tmp_path / "pipeline" / "feature_extractor")
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    tensors = {
        name.replace("vision_model.", "vision_model.vision_model.", 1)
        if name.startswith("vision_model.")
        else name: row
        for name, row in load_file(checker / "model.safetensors").items()
    }
    tensors["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, checker / "model.safetensors", {"format": "pt"})
    loaded = SafetyChecker.load(str(tmp_path / "pipeline"), CPU)
    assert loaded.flags([red, blue]) == [True, False]


@pytest.mark.slow
def test_a_hub_id_is_found_among_what_was_downloaded(tmp_path: Path) -> None:
    """The folders are those of the hub client's cache. Offline, it cannot check whether there is a model_index.json."""
    kept = tmp_path / "hub" / "models--someone--checker"
    write_checker(kept / "snapshots" / "0123", None, [])
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123")
    script = (
        "import torch; from PIL import Image; from sampler.images.safety_checker import SafetyChecker; "
        "print(SafetyChecker.load('someone/checker', torch.device('cpu')).flags([Image.new('RGB', (20, 20))]))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert result.stdout == "[False]\n", result.stderr


def test_what_is_no_checker_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for location in ("nowhere", "../nowhere", str(tmp_path / "missing")):
        with pytest.raises(RequestError, match="neither an existing folder nor a hub id"):
            SafetyChecker.load(location, CPU)
    with pytest.raises(RequestError, match="cannot load"):
        SafetyChecker.load(str(tmp_path), CPU)

    checker = write_checker(tmp_path / "checker", colours()[0], [])
    tensors = load_file(checker / "model.safetensors")
    del tensors["concept_embeds"]
    save_file(tensors, checker / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match="is not a StableDiffusionSafetyChecker: it has no concept_embeds"):
        SafetyChecker.load(str(checker), CPU)

    tower = CLIPVisionModel(CLIPVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    tower.save_pretrained(tmp_path / "tower")
    with pytest.raises(RequestError, match="safety_checker"):
        SafetyChecker.load(str(tmp_path / "tower"), CPU)

    pickled = write_checker(tmp_path / "pickled", None, [])
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="as safetensors"):
        SafetyChecker.load(str(pickled), CPU)

    monkeypatch.setenv("ALLOWED_BASE_MODELS", "mini-sdxl")
    with pytest.raises(BaseModelError, match="safety_checker: .* operator allows"):
        SafetyChecker.load(str(checker), CPU)

"""Tests of SDXL's refiner for the last steps: images are those of diffusers' two pipelines; unsupported requests."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from artifact.artifact import Artifact
from artifact.metadata import ArtifactDescription
from families.errors import BaseModelError
from families.family import PromptFeatures
from families.parts.sdxl_refiner import load_refiner
from families.registry import load_base_model
from sampler.generation import Generation
from sampler.images.files import read_parameters
from sampler.refining import Refinement
from sampler.request import RequestError
from sampler.sampler import SampleRequest
from sampler.schedulers import SCHEDULERS
from service.prediction_inputs import Prediction, PredictionInputs, predict
from tests.artifact import test_artifact
from tests.artifact.test_artifact import make_artifact, write
from tests.tiny_models import SCALED_LINEAR, write_sd15, write_sdxl, write_sdxl_refiner

Ask = Callable[..., Prediction]
PROMPT, NEGATIVE = "a photo of a red star", "blurry"
DRAWN = {"num_inference_steps": 5, "guidance_scale": 5.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and a refiner."""
    folder = tmp_path_factory.mktemp("models")
    write_sdxl(folder / "base")
    write_sdxl_refiner(folder / "refiner")
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def ask(models: Path, tmp_path: Path, said: list[str]) -> Ask:
    """Return a function that sends requests to one predictor, by default with the refiner."""
    generation = Generation(said.append)
    count = iter(range(1000))

    def asked(prompt: str = PROMPT, **inputs: Any) -> Prediction:
        usual = {"base_model": str(models / "base"), "refiner": str(models / "refiner"), "seed": 7, **DRAWN}
        given = PredictionInputs(prompt, **{**usual, **inputs})
        folder = tmp_path / f"answer-{next(count)}"
        return predict(given, generation, folder, local_files=True, say=said.append, metric=lambda name, value: None)

    return asked


def pixels(prediction: Prediction) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(Image.open(path), dtype=int) for path in prediction.paths]


def by_hand(
    models: Path, start: float, prompt: str, negative: str | None, seed: int, scheduler: Any = None, **options: Any
) -> np.ndarray[Any, Any]:
    """Return the image of diffusers' ensemble of experts, by default with the schedulers of the two folders."""
    base = StableDiffusionXLPipeline.from_pretrained(models / "base", add_watermarker=False)
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(models / "refiner", add_watermarker=False)
    if scheduler is not None:
        base.scheduler = scheduler.from_config(base.scheduler.config, **options)
        refiner.scheduler = scheduler.from_config(refiner.scheduler.config, **options)
    generator = torch.Generator().manual_seed(seed)
    given = {"prompt": prompt, "negative_prompt": negative, "generator": generator, **DRAWN}
    latents = base(**given, denoising_end=start, output_type="latent").images
    return np.asarray(refiner(**given, image=latents, denoising_start=start).images[0], dtype=int)


@pytest.mark.slow
@pytest.mark.parametrize(("start", "negative"), [(0.8, NEGATIVE), (0.4, NEGATIVE), (0.8, "")])
def test_it_is_what_diffusers_draws_by_hand(start: float, negative: str, ask: Ask, models: Path) -> None:
    (ours,) = pixels(ask(refiner_start=start, negative_prompt=negative))
    theirs = by_hand(models, start, PROMPT, negative or None, 7)
    assert np.abs(ours - theirs).max() <= 1
    (bare,) = pixels(ask(refiner=None, negative_prompt=negative))
    assert np.abs(ours - bare).max() > 5


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m_karras", "euler_ancestral"])
def test_any_sampler_hands_over_latents_of_its_own_kind(scheduler: str, ask: Ask, models: Path) -> None:
    """DDIM has latents of another scale than Euler, the scheduler of both folders."""
    (ours,) = pixels(ask(scheduler=scheduler, negative_prompt=NEGATIVE))
    kind, options = SCHEDULERS[scheduler]
    theirs = by_hand(models, 0.8, PROMPT, NEGATIVE, 7, getattr(diffusers, kind), **options)
    assert np.abs(ours - theirs).max() <= 1


def test_a_refiner_takes_the_kind_of_scheduler_that_the_base_brings(ask: Ask, models: Path, tmp_path: Path) -> None:
    base = write_sdxl(tmp_path / "base")
    DDIMScheduler(**SCALED_LINEAR, steps_offset=1, clip_sample=False).save_pretrained(base / "scheduler")
    index = json.loads((base / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (base / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "refiner").symlink_to(models / "refiner")
    (ours,) = pixels(ask(base_model=str(base), negative_prompt=NEGATIVE))
    theirs = by_hand(tmp_path, 0.8, PROMPT, NEGATIVE, 7, DDIMScheduler, clip_sample=False)
    assert np.abs(ours - theirs).max() <= 1


def test_a_seed_is_a_picture_in_any_batch_and_the_files_say_what_was_used(ask: Ask) -> None:
    both = ask(num_outputs=2)
    again = pixels(ask(seed=8))
    assert np.abs(pixels(both)[1] - again[0]).max() <= 1
    assert np.abs(pixels(both)[0] - again[0]).max() > 5
    assert "Refiner: refiner, Refiner switch at: 0.8" in read_parameters(both.paths[0])
    assert "Refiner" not in ask(refiner=None).parameters[0]


def test_progress_runs_through_both(models: Path) -> None:
    sampler = Generation(lambda line: None).prepare(None, str(models / "base"))
    refinement = Refinement(load_refiner(str(models / "refiner"), torch.float32), 0.6)
    seen: list[tuple[int, int]] = []
    request = SampleRequest(PROMPT, num_inference_steps=5)
    sampler.generate(request, on_step=lambda done, total: seen.append((done, total)), refinement=refinement)
    assert seen == [(number, 5) for number in range(1, 6)]


def test_class_words_are_read_in_place_of_trigger_words(models: Path) -> None:
    refiner = load_refiner(str(models / "refiner"), torch.float32)
    refinement = Refinement(refiner, 0.8, {"TOK": "star", "TOK2": "owl"})
    wanted, unwanted = refinement.encode("a photo of TOK and (TOK2:1.0)", "no TOK, no TOKEN", 0)
    assert_same(wanted, refiner.encode_prompts(["a photo of a star and an owl"]))
    assert_same(unwanted, refiner.encode_prompts(["no a star, no TOKEN"]))


def assert_same(one: PromptFeatures, other: PromptFeatures) -> None:
    assert torch.equal(one.prompt_embeds, other.prompt_embeds)
    assert one.pooled_prompt_embeds is not None and other.pooled_prompt_embeds is not None
    assert torch.equal(one.pooled_prompt_embeds, other.pooled_prompt_embeds)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"trigger_word": "TOK", "class_word": " dog "}, {"TOK": "dog"}),
        ({"concepts": [{"trigger_word": "TOK", "class_word": None}, {"trigger_word": "B", "class_word": "cat"}]},
         {"B": "cat"}),
        ({"trigger_word": "C", "class_word": "dog"}, {}),
        ({"concepts": ["TOK", 3], "trigger_word": "TOK"}, {}),
        ({"concepts": "TOK", "trigger_word": ["TOK"], "class_word": 3}, {}),
    ],
)  # fmt: skip
def test_class_words_of_a_header_that_anybody_may_have_written(config: dict[str, Any], words: dict[str, str]) -> None:
    triggers = {"TOK": ["<s0>"], "B": ["<s1>"]}
    assert ArtifactDescription("sdxl", "x", "", "epsilon", triggers, 1, config).class_words == words


@pytest.mark.slow
def test_the_refiner_reads_class_words_for_trigger_words(
    ask: Ask, models: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of one LoRA has a class word, that of the other has none. The base reads trigger words in any case."""
    monkeypatch.setattr(test_artifact, "PATHS", test_artifact.PATHS[:1])  # the tiny base does not have the others
    base = load_base_model(str(models / "base"), torch.float32)
    artifact = make_artifact(base)
    assert artifact.description is not None
    known = replace(artifact.description, config={"trigger_word": "TOK", "class_word": "ring"})
    with_word = str(write(Artifact(artifact.layers, artifact.tokens, known), tmp_path / "known.safetensors", base))
    without = str(write(replace(artifact, description=replace(known, config={})), tmp_path / "bare.safetensors", base))

    one = pixels(ask("a photo of TOK", lora=with_word))
    assert "refiner: its prompt has 'ring' instead of TOK" in said
    assert not any("does not know the trigger word" in line for line in said)
    said.clear()
    other = pixels(ask("a photo of TOK", lora=without))
    assert any("warning: refiner: does not know the trigger word TOK" in line for line in said)
    assert np.abs(one[0] - other[0]).max() > 0

    said.clear()
    tokens = {name: rows / 2 for name, rows in artifact.tokens.items()}  # the same file twice would be one LoRA
    second = str(write(Artifact(artifact.layers, tokens, known), tmp_path / "second.safetensors", base))
    ask("two stars: TOK and (TOK2:1.2)", lora=f"{with_word},{second}")
    assert "refiner: its prompt has 'ring' instead of TOK2" in said


def test_a_long_weighted_prompt_is_read_by_both(ask: Ask) -> None:
    prompt = "a photo of a (red:1.3) star, " + "small " * 85 + "and {}"
    assert np.abs(pixels(ask(prompt.format("red")))[0] - pixels(ask(prompt.format("blue")))[0]).max() > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"base_model": "SD15"}, "refiner: only SDXL has refiners, and this base model is sd15"),
        ({"image": "PICTURE"}, "refiner: only supports text to image"),
        ({"refiner_start": 0.0}, "refiner_start: 0 must be between 0 and 1"),
        ({"refiner_start": 1.0}, "refiner_start: 1 must be between 0 and 1"),
        ({"num_inference_steps": 1}, "refiner_start: 0.8 of 1 steps leaves no step for the base model"),
        ({"refiner_start": 0.9999}, "of 5 steps leaves no step for the refiner"),
        ({"scheduler": "heun"}, "scheduler: HeunDiscreteScheduler has two passes per step"),
        ({"clip_skip": 1, "refiner": "SHALLOW"}, "clip_skip: must be between 0 and 0"),
    ],
)
def test_what_no_refiner_could_do_is_refused(
    inputs: dict[str, Any], message: str, ask: Ask, models: Path, tmp_path: Path
) -> None:
    given = dict(inputs)
    if given.get("base_model") == "SD15":
        given["base_model"] = str(write_sd15(tmp_path / "sd15"))
    if given.get("refiner") == "SHALLOW":
        given["refiner"] = str(write_sdxl_refiner(tmp_path / "shallow", encoder_layers=1))
    if "image" in given:
        Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
        given["image"] = tmp_path / "picture.png"
    with pytest.raises(RequestError, match=message):
        ask(**given)


def test_what_is_no_refiner_is_refused(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StableDiffusionXLPipeline.from_pretrained(models / "base", add_watermarker=False)
    StableDiffusionXLImg2ImgPipeline(**whole.components, add_watermarker=False).save_pretrained(tmp_path / "whole")
    (tmp_path / "one.safetensors").write_bytes(b"")
    for location, message in (
        (tmp_path / "missing", "refiner: .* is neither"),
        (models / "base", "refiner: .* is a StableDiffusionXLPipeline, not a refiner"),
        (tmp_path / "whole", "is not a refiner, which only has the second text encoder"),
        (tmp_path / "one.safetensors", "refiner: .* is a single file"),
    ):
        with pytest.raises(BaseModelError, match=message):
            load_refiner(str(location), torch.float32)
    monkeypatch.setenv("ALLOWED_BASE_MODELS", str(models / "base"))
    with pytest.raises(BaseModelError, match="refiner: .* operator allows"):
        load_refiner(str(models / "refiner"), torch.float32)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("vae/config.json", {"scaling_factor": 0.5}, "their VAEs differ in scaling_factor"),
        (
            "scheduler/scheduler_config.json",
            {"beta_end": 0.02},
            "its noise schedule differs from that of the base model",
        ),
    ],
)
def test_a_refiner_of_another_base_is_refused(
    file: str, changes: dict[str, Any], message: str, ask: Ask, tmp_path: Path
) -> None:
    refiner = write_sdxl_refiner(tmp_path / "refiner")
    path = refiner / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BaseModelError, match=message):
        ask(refiner=str(refiner))


def test_a_pickled_refiner_is_refused(tmp_path: Path) -> None:
    refiner = write_sdxl_refiner(tmp_path / "refiner")
    weights = refiner / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BaseModelError, match="refiner: cannot load"):
        load_refiner(str(refiner), torch.float32)

"""Tests of training a ControlNet end to end on tiny base models: preparation, training, samples, verification,
resuming, and opening the files with diffusers."""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from families.family import ModelFamily
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run_stages
from job.stage import Job
from job.stages.load import load
from job.stages.verify import verify
from job.verification.verify import VerificationFailed
from preprocess.prepare import prepare
from sampler.extras import Extras, Steering
from sampler.generation import Generation
from sampler.images.control import fitted_pixels
from sampler.request import RequestError, SampleRequest
from service.prediction_inputs import PredictionInputs, predict
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.fast_part import slow_but
from tests.tiny_models import write_sd3, write_sd15, write_sdxl
from tools.mini_base.scenes import draw, training_scene
from trainer.building import build_training
from trainer.checkpoints.training_state import capture, restore
from trainer.data.latent_cache import cache_examples
from trainer.resolution import base_requirements, resolve
from trainer.training import Training
from trainer.validation.split import split

STEPS = 4


def _settings(base: Path, **changes: Any) -> TrainingConfig:
    return build_config({
        "base_model": str(base), "adapter": "controlnet", "control": "canny", "captioner": "none",
        "learning_rate": 1e-3, "max_train_steps": STEPS, "train_batch_size": 2,
        "num_validation_images": 2, "num_inference_steps": 2,
        "lr_warmup_steps": 0, "control_dropout": 0.3, **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn scenes, with captions that do not contain a trigger word."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        rng = random.Random(number)
        draw(training_scene(rng), rng).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"shapes, number {number}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=slow_but(["sd15"], ["sdxl", "sd15"]))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write = {"sdxl": write_sdxl, "sd15": write_sd15}[request.param]
    return write(tmp_path_factory.mktemp("tiny") / request.param)


@pytest.fixture(scope="module")
def done(tiny: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    output = OutputFolder.create(tmp_path_factory.mktemp("runs") / "out")
    changes = {"validation_steps": 2, "validation_share": 0.4, "checkpointing_steps": 2, "sample_steps": 2}
    job = Job(_settings(tiny, save_precision="fp32", **changes), [pictures], output)
    list(run_stages(job))
    return job


def test_a_job_ends_with_both_forms_and_a_report(done: Job) -> None:
    output = done.output
    assert done.verification.effect > 0 and done.verification.difference < 1e-3
    assert done.config.num_tokens == 0 and done.config.trigger_word == "" and done.config.loss_weighting == "uniform"
    assert all("TOK" not in example.caption for example in done.dataset.examples)
    assert ControlNetModel.from_pretrained(output.controlnet, local_files_only=True)
    assert (output.checkpoints / "step_000002" / "weights.safetensors").is_file()
    for folder in (output.samples, output.samples_of_step(2)):
        assert sorted(path.name for path in folder.glob("*.png")) == ["00.png", "01.png"]
        assert [path.name for path in sorted((folder / "conditions").iterdir())] == ["00.png", "01.png"]
    held = done.training.held_out
    assert held is not None and len(held.held_out) == 2
    assert json.loads(output.step_prompts.read_text(encoding="utf-8")) == [each.caption for each in held.held_out]
    assert '"conditions": ["data:image' in output.page.read_text(encoding="utf-8")
    scores = [json.loads(line) for line in output.validation.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in scores] == [0, 2, 4] and scores[0]["score"] == 1 != scores[2]["score"]


@pytest.mark.slow
def test_diffusers_draws_the_same_picture(done: Job, tiny: Path, tmp_path: Path) -> None:
    """Compares diffusers' pipeline, loaded from the folders of the base model and the ControlNet, with predict.py."""
    kind = StableDiffusionXLControlNetPipeline if "sdxl" in tiny.name else StableDiffusionControlNetPipeline
    controlnet = ControlNetModel.from_pretrained(done.output.controlnet, local_files_only=True)
    more: dict[str, Any] = {} if "sdxl" in tiny.name else {"safety_checker": None}
    theirs = kind.from_pretrained(str(tiny), controlnet=controlnet, local_files_only=True, **more)
    condition = done.output.samples / "conditions" / "00.png"
    with Image.open(condition) as picture:
        given = fitted_pixels(picture, (64, 64))
        expected = theirs(
            "shapes", image=given, width=64, height=64, num_inference_steps=2, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(5),
        ).images[0]  # fmt: skip
    inputs = PredictionInputs(
        "shapes", base_model=str(tiny), controlnet=str(done.output.weights), control_image=condition,
        num_inference_steps=2, guidance_scale=3.0, seed=5,
    )  # fmt: skip

    def ours(name: str, asked: PredictionInputs) -> np.ndarray:
        drawn = predict(
            asked, Generation(say=lambda _: None), tmp_path / name, local_files=True, say=lambda _: None,
            metric=lambda *_: None,
        )  # fmt: skip
        assert asked.controlnet is None or "ControlNet: " in drawn.parameters[0]
        with Image.open(drawn.paths[0]) as image:
            return np.asarray(image.convert("RGB"), int)

    steered = ours("file", inputs)
    assert np.abs(steered - np.asarray(expected, int)).max() <= 1
    assert np.array_equal(steered, ours("folder", replace(inputs, controlnet=str(done.output.controlnet))))
    bare = replace(inputs, controlnet=None, control_image=None)
    assert not np.array_equal(steered, ours("bare", bare))
    assert np.array_equal(ours("off", replace(inputs, control_scale=0.0)), ours("bare again", bare))


def test_a_spoiled_file_fails_the_verification(done: Job) -> None:
    whole = done.output.weights.read_bytes()
    tensors = load_file(done.output.weights)
    name = next(name for name in ("zero_convs.0.0.weight", "controlnet_down_blocks.0.weight") if name in tensors)
    save_file({**tensors, name: tensors[name] + 1}, done.output.weights)
    try:
        with pytest.raises(VerificationFailed, match="a tensor of the file differs by"):
            list(verify(done))
    finally:
        done.output.weights.write_bytes(whole)


def _training(
    family: ModelFamily, config: TrainingConfig, pictures: Path, folder: Path, initial: Any = None
) -> Training:
    config = resolve(config, family)
    dataset = prepare([pictures], config, folder, base_requirements(family, config, config.num_tokens))
    examples = list(cache_examples(dataset, family))
    return build_training(config, family, dataset, examples, Accelerator(cpu=True), initial)


@pytest.mark.slow
@pytest.mark.parametrize("control", ["canny", "inpainting"])
def test_a_resumed_run_is_the_run_that_never_stopped(control: str, tiny: Path, pictures: Path, tmp_path: Path) -> None:
    family, config = load_base_model(str(tiny), torch.float32), _settings(tiny, control=control, horizontal_flip=True)

    def state(training: Training) -> Mapping[str, torch.Tensor]:
        assert training.controlnet is not None
        return {name: each.detach().clone() for name, each in training.controlnet.module.state_dict().items()}

    whole = _training(family, config, pictures, tmp_path / "whole")
    start = state(whole)
    assert whole.observer.look().weight_change == {}  # there are no adapters and no tokens
    list(whole.trainer.steps())
    stopped = _training(family, config, pictures, tmp_path / "stopped")
    assert all(torch.equal(start[name], each) for name, each in state(stopped).items())
    steps = stopped.trainer.steps()
    next(steps), next(steps)
    saved = capture(stopped)
    saved = {**saved, "trainables": {name: _copied(each) for name, each in saved["trainables"].items()}}
    resumed = _training(family, config, pictures, tmp_path / "resumed")
    restore(resumed, saved)
    list(resumed.trainer.steps())
    expected = state(whole)
    assert any(not torch.equal(expected[name], start[name]) for name in start)
    assert all(torch.equal(expected[name], each) for name, each in state(resumed).items())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_training_starts_from_a_finished_controlnet(form: str, done: Job, pictures: Path, tmp_path: Path) -> None:
    path = done.output.weights if form == "file" else done.output.controlnet
    config = _settings(Path(done.config.base_model), init_weights=path, control="grey")
    job = Job(config, [pictures], OutputFolder.create(tmp_path / "out"))
    list(load(job))
    training = _training(job.family, config, pictures, tmp_path / "dataset", job.initial)
    assert training.controlnet is not None and done.controlnet_state is not None
    state = training.controlnet.module.state_dict()
    assert all(torch.equal(state[name], each.float()) for name, each in done.controlnet_state.items())
    begins, *warned = training.notes
    assert begins == f"starting from the ControlNet {path.name}"
    assert ["trained with control: canny, but this run has control: grey" in note for note in warned] == (
        [True] if form == "file" else []
    )


def _lora(path: Path) -> Path:
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, path)
    return path


def _too_small(path: Path) -> Path:
    save_file({"zero_convs.0.0.bias": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path, "no.safetensors does not exist"),
        (_lora, "is not a ControlNet; with adapter: controlnet give"),
        (_too_small, "is not for this base model"),
    ],
)
def test_what_is_no_controlnet_of_this_base_starts_none(write: Any, said: str, tiny: Path, tmp_path: Path) -> None:
    config = _settings(tiny, init_weights=write(tmp_path / "no.safetensors"))
    job = Job(config, [], OutputFolder(tmp_path / "out"))
    with pytest.raises(ConfigError, match=f"^init_weights: .*{said}"):
        list(load(job))


def test_a_controlnet_starts_no_lora(done: Job, tmp_path: Path) -> None:
    config = build_config({"base_model": done.config.base_model, "init_weights": done.output.weights})
    with pytest.raises(ConfigError, match="^init_weights: .*: the file is a ControlNet, not a LoRA"):
        list(load(Job(config, [], OutputFolder(tmp_path / "out"))))


def _copied(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.clone()
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(each) for each in tree] if isinstance(tree, list) else tree


def test_a_held_out_crop_takes_its_condition_along(tiny: Path, pictures: Path, tmp_path: Path) -> None:
    family = load_base_model(str(tiny), torch.float32)
    config = resolve(_settings(tiny, control="files"), family)
    given = tmp_path / "given"
    (given / "conditioning").mkdir(parents=True)
    with Image.open(pictures / "0.png") as picture:
        for path in (given / "a.png", given / "conditioning" / "a.png"):
            picture.save(path)
    dataset = prepare([given], config, tmp_path / "dataset", base_requirements(family, config, 0))
    examples = list(cache_examples(dataset, family))
    whole = examples[0].views[0].load().control
    (crop,) = split(examples, 0.1, family.size_multiple, torch.Generator().manual_seed(3)).held_out
    view = crop.views[0].load()
    top, left = (place - start for place, start in zip(view.size.crop, examples[0].views[0].size.crop, strict=True))
    assert whole is not None and view.control is not None and view.control.shape[-2:] == view.size.target != (64, 64)
    height, width = view.size.target
    assert torch.equal(view.control, whole[:, top : top + height, left : left + width])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control": "none"}, "adapter: controlnet needs control"),
        ({"adapter": "lora"}, "control has no effect with adapter: lora"),
        ({"control": "none", "adapter": "lora"}, "control_dropout has no effect"),
        ({"rank": 8}, "rank has no effect with adapter: controlnet"),
        ({"controlnet_blocks": [4, 0]}, r"controlnet_blocks: \[4, 0\] must be different block indices"),
        (
            {"controlnet_blocks": [0], "control": "none", "control_dropout": 0, "adapter": "lora"},
            "_blocks has no effect",
        ),
        ({"prior_matching_weight": 1.0}, "prior_matching_weight has no effect with adapter: controlnet"),
        ({"evaluate": "true"}, "evaluate: true has no effect with adapter: controlnet"),
        ({"evaluation_samples": 4}, "evaluation_samples has no effect with adapter: controlnet"),
        ({"shard_base": True}, "shard_base: adapter: controlnet"),
    ],
)
def test_settings_without_effect_are_errors(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        _settings(tmp_path, **changes)


def test_tokens_and_other_families_are_errors(tiny: Path, tmp_path: Path) -> None:
    family = load_base_model(str(tiny), torch.float32)
    with pytest.raises(ConfigError, match="num_tokens has no effect with adapter: controlnet"):
        resolve(_settings(tiny, num_tokens=2), family)
    with pytest.raises(ConfigError, match="controlnet_blocks: .* cannot be chosen; leave it out"):
        resolve(_settings(tiny, controlnet_blocks=[0, 3]), family)
    plain = resolve(_settings(tiny, learning_rate=None), family)
    assert plain.learning_rate == 1e-5 and plain.controlnet_blocks == ()
    other = write_sd3(tmp_path / "sd3")
    with pytest.raises(ConfigError, match="not supported for base models of the family sd3"):
        resolve(_settings(other), load_base_model(str(other), torch.float32))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"controlnet": "x.safetensors"}, "controlnet: needs control_image"),
        ({"control_scale": 0.5}, "control_scale: has no effect without controlnet"),
        ({"control_image": "PICTURE"}, "control_image: has no effect without controlnet"),
    ],
)
def test_one_of_the_inputs_alone_is_an_error(inputs: dict[str, Any], said: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    given: dict[str, Any] = {name: picture if value == "PICTURE" else value for name, value in inputs.items()}
    with pytest.raises(RequestError, match=said):
        predict(
            PredictionInputs("a", base_model="mini-sdxl", **given), Generation(say=lambda _: None), tmp_path / "out",
            local_files=True, say=lambda _: None, metric=lambda *_: None,
        )  # fmt: skip


def test_a_refiner_and_a_controlnet_do_not_go_together(done: Job) -> None:
    with Image.open(done.output.samples / "conditions" / "00.png") as picture:
        steering = Steering(str(done.output.weights), picture.copy(), local_files=True)
    extras = Extras(refiner="x/y", steering=steering)
    with pytest.raises(RequestError, match="refiner"):
        Generation(say=lambda _: None).generate(SampleRequest("a"), [], done.config.base_model, None, extras)


def test_only_transparent_pixels_are_erased() -> None:
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    pixels = fitted_pixels(Image.open(buffer), (32, 32))
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels[0, :, 0, 0].tolist() == [-1.0] * 3 and pixels[0, :, 5, 5].tolist() == [1.0, 0.0, 0.0]

"""Tests of Stage C's ControlNets for faces: training and sampling with stand-ins for the face networks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from families.cascade.family import Cascade
from families.controls.control import ControlForm
from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.run import run_stages
from job.stage import Job
from job.stages.load import load
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from sampler.generation import Generation
from sampler.request import RequestError
from service.prediction_inputs import PredictionInputs, predict
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.preprocess.control.faces_by_colour import Box, picture_of, stand_in, where
from tests.tiny_cascade import write_cascade
from tests.tiny_models import opened, write_sd15
from trainer.building import build_training
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import cache_examples
from trainer.resolution import base_requirements, resolve
from trainer.trainables.initial_controlnet import read_initial_controlnet
from trainer.training import Training
from trainer.validation.split import split

STEPS, SIDE = 3, 64


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return stand_in(monkeypatch, tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, person in enumerate(("anna", "ben", "cleo")):
        others = [("anna" if person == "cleo" else "cleo", (6, 40, 22, 58))] if number else []
        picture_of([(person, (20 + 4 * number, 8, 44 + 4 * number, 36)), *others], (SIDE, SIDE)).save(
            folder / f"{number}.png"
        )
        (folder / f"{number}.txt").write_text(f"a photo of person {number}", encoding="utf-8")
    return folder


def settings(base: Path, model: Path | None, **more: Any) -> TrainingConfig:
    return build_config({
        "base_model": str(base), "adapter": "controlnet", "control": "faces", "face_recognition_model": model,
        "max_train_steps": STEPS, "train_batch_size": 2, "resolution": SIDE, "learning_rate": 1e-2,
        "lr_warmup_steps": 0, "captioner": "none", "control_dropout": 0.3, "num_inference_steps": 2,
        "num_validation_images": 2, **more,
    })  # fmt: skip


def drawn(asked: PredictionInputs, generation: Generation, folder: Path) -> bytes:
    made = predict(asked, generation, folder, local_files=True, say=lambda _: None, metric=lambda *_: None)
    with Image.open(made.paths[0]) as picture:
        return picture.tobytes()


@pytest.mark.slow
def test_a_job_ends_with_a_file_that_draws(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file, the generated image depends on the person and on the position of the face."""
    base = write_cascade(tmp_path / "base")
    job = Job(
        settings(base, model, save_precision="fp32", validation_steps=2, validation_share=0.4),
        [photos],
        OutputFolder.create(tmp_path / "out"),
    )
    list(run_stages(job))
    assert job.verification.effect > 0 and job.verification.difference < 1e-3
    assert (job.output.samples / "00.png").is_file()
    with Image.open(job.output.samples / "conditions" / "00.png") as shown:
        assert shown.size == (SIDE, SIDE) and where(shown)
    tensors = load_file(job.output.weights)
    assert tensors["backbone.0.weight"].shape == (512, 128, 3, 3)
    ends = {name: 100 * each for name, each in tensors.items() if name.endswith(".2.weight")}
    strong = tmp_path / "strong.safetensors"
    save_file(tensors | ends, strong)
    monkeypatch.setenv("FACE_RECOGNITION_MODEL", str(model))
    bare = PredictionInputs("a photo", base_model=str(base), width=SIDE, height=SIDE, num_inference_steps=2, seed=5)
    generation = Generation(say=lambda _: None)
    made = {"bare": drawn(bare, generation, tmp_path / "bare")}
    there, below = (8, 8, 40, 40), (30, 30, 62, 62)

    def steered(name: str, faces: list[tuple[str, Box]]) -> bytes:
        picture_of(faces, (SIDE, SIDE)).save(tmp_path / f"{name}.png")
        asked = replace(bare, controlnet=str(strong), control_image=tmp_path / f"{name}.png")
        return drawn(asked, generation, tmp_path / name)

    made |= {name: steered(name, [(name, there)]) for name in ("anna", "ben")}
    made["below"] = steered("below", [("anna", below)])
    assert len(set(made.values())) == 4
    with pytest.raises(RequestError, match="control_image: no face was detected"):
        steered("no one", [])
    monkeypatch.delenv("FACE_RECOGNITION_MODEL")
    with pytest.raises(RequestError, match="controlnet: control: faces needs SFace's file"):
        steered("without", [("anna", there)])


def training_on(family: ModelFamily, config: TrainingConfig, photos: Path, folder: Path) -> Training:
    dataset = prepare([photos], config.preparation, folder, base_requirements(family, config, config.num_tokens))
    return build_training(config, family, dataset, list(cache_examples(dataset, family)), Accelerator(cpu=True))


def state_of(training: Training) -> Mapping[str, Tensor]:
    assert training.controlnet is not None
    return {name: each.clone() for name, each in training.controlnet.module.state_dict().items()}


def test_it_resumes_bit_for_bit(model: Path, photos: Path, tmp_path: Path) -> None:
    base = write_cascade(tmp_path / "base")
    family = opened(base)
    config = resolve(settings(base, model, horizontal_flip=True, controlnet_blocks=[1, 2]), family)
    training, checkpoints, expected = training_on(family, config, photos, tmp_path / "one"), Checkpoints(tmp_path), []
    start = state_of(training)
    for step in training.trainer.steps():
        expected.append(step.losses)
        checkpoints.write(training)
    ended = state_of(training)
    assert any(not torch.equal(each, start[name]) for name, each in ended.items())
    training.remove()
    training = training_on(family, config, photos, tmp_path / "two")
    restore(training, read_checkpoint(checkpoints.path(1)))
    assert [step.losses for step in training.trainer.steps()] == expected[1:]
    assert all(torch.equal(each, ended[name]) for name, each in state_of(training).items())


def test_a_held_out_crop_takes_its_faces_along(model: Path, photos: Path, tmp_path: Path) -> None:
    """In coordinates of the whole image, the crop's boxes are the original ones, limited to the crop."""
    family = opened(write_cascade(tmp_path / "base"))
    for other in ("1.png", "2.png"):
        (photos / other).unlink()
    config = settings(tmp_path / "base", model)
    dataset = prepare([photos], config.preparation, tmp_path / "dataset", base_requirements(family, config, 0))
    (example,) = cache_examples(dataset, family)
    (whole,) = (view.load() for view in example.views)
    (crop,) = split([example], 0.1, family.size_multiple, torch.Generator().manual_seed(3)).held_out
    view = crop.views[0].load()
    assert view.control is not None and whole.control is not None and view.control.shape == whole.control.shape
    (top, left), (height, width) = view.size.crop, view.size.target
    moved = view.control[0, :4] * torch.tensor([width, height] * 2) + torch.tensor([left, top] * 2)
    box = whole.control[0, :4] * SIDE
    inside = torch.tensor([left, top] * 2), torch.tensor([left + width, top + height] * 2)
    torch.testing.assert_close(
        moved, torch.minimum(torch.maximum(box, inside[0]), inside[1]), atol=0.5, rtol=0
    )  # sides are rounded
    assert torch.equal(view.control[0, 4:], whole.control[0, 4:]) and not view.control[1:].any()


def test_what_cannot_be_trained_is_refused_at_once(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing face model is an error before the base is loaded; another family, before images are prepared."""
    monkeypatch.delenv("FACE_RECOGNITION_MODEL", raising=False)
    job = Job(settings(tmp_path / "no base", None), [photos], OutputFolder.create(tmp_path / "out"))
    with pytest.raises(DatasetError, match="control: faces needs SFace's file"):
        list(load(job))
    base = write_sd15(tmp_path / "sd15")
    with pytest.raises(ConfigError, match="control: faces: ControlNets of .*sd15 only support images"):
        resolve(settings(base, model), opened(base))
    with pytest.raises(ConfigError, match="controlnet_bottleneck: large needs control: .*, not faces"):
        settings(base, model, controlnet_bottleneck="large")


def test_it_starts_from_one_for_faces_alone(tmp_path: Path) -> None:
    family = opened(write_cascade(tmp_path / "base"))
    assert isinstance(family, Cascade)
    blocks, path = (0, 3), tmp_path / "start.safetensors"
    of_faces, of_edges = ControlForm.of("faces", blocks), ControlForm.of("canny", blocks)
    save_file(family.new_controlnet(of_faces).state_dict(), path)
    assert read_initial_controlnet(path, family, of_faces).path == path
    with pytest.raises(
        ConfigError, match="init_weights: start.safetensors was trained with faces as condition; set the same control"
    ):
        read_initial_controlnet(path, family, of_edges)
    save_file(family.new_controlnet(of_edges).state_dict(), path)
    with pytest.raises(
        ConfigError, match="init_weights: start.safetensors was trained with images as condition; set the same control"
    ):
        read_initial_controlnet(path, family, of_faces)

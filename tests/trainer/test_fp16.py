"""Tests of training in fp16: the loss is scaled, steps that overflow change nothing, and other steps are as in fp32."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from families.family import ModelFamily
from families.registry import load_base_model
from job.output_folder import OutputFolder
from job.run import run
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_cascade import write_cascade, write_stage_b
from tests.tiny_models import write_flux1, write_sd3, write_sdxl
from trainer.base_model import require_precision
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore
from trainer.loop import Step
from trainer.trainables.trainable import TrainingDiverged
from trainer.training import Training

TOO_MUCH = 2.0**24
"""A loss scale at which gradients overflow."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("fp16") / "base")


@pytest.fixture
def half(folder: Path) -> ModelFamily:
    return load_base_model(str(folder), torch.float16)


def at_scale(training: Training, factor: float) -> Training:
    scaling = training.trainer.loss_scaling
    assert scaling is not None
    scaling.load_state_dict(scaling.state_dict() | {"scale": factor})
    return training


def weights(training: Training) -> list[torch.Tensor]:
    return [each.detach().clone() for part in training.trainer.trainables for each in part.parameters]


@pytest.mark.slow
def test_gradients_are_those_of_fp32(folder: Path, half: ModelFamily) -> None:
    """Without a loss scale most gradients would be 0. With one that is not divided out, clipping would reduce them to
    almost nothing."""
    norms: list[list[Step]] = []
    for family in (half, load_base_model(str(folder), torch.float32)):
        with curve_training(family, curve_config(str(folder), max_train_steps=3)) as training:
            norms.append(list(training.trainer.steps()))
    for ours, theirs in zip(*norms, strict=True):
        assert not ours.skipped and ours.loss_scale == 2.0**16 and theirs.loss_scale is None
        assert ours.losses == pytest.approx(theirs.losses, rel=0.01)
        assert ours.gradient_norms == pytest.approx(theirs.gradient_norms, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_what_overflows_changes_nothing_and_resumes_bit_for_bit(
    optimizer: str, folder: Path, half: ModelFamily, tmp_path: Path
) -> None:
    """AdamW updates one flat tensor, Adafactor each parameter."""
    config = curve_config(str(folder), max_train_steps=8, optimizer=optimizer, ema_decay=0.9)
    checkpoints, steps, states = Checkpoints(tmp_path), [], []
    with curve_training(half, config) as training:
        at_scale(training, TOO_MUCH)
        states.append(weights(training))
        for step in training.trainer.steps():
            steps.append(step)
            states.append(weights(training))
            if step.number in (1, 4):
                checkpoints.write(training)
    skipped = [step.skipped for step in steps]
    assert skipped[0] and skipped[1] and not all(skipped)
    for now, then in pairwise(steps):
        assert now.loss_scale is not None
        assert then.loss_scale == now.loss_scale / (2 if now.skipped else 1)
    for number, was_skipped in enumerate(skipped):
        same = [torch.equal(*pair) for pair in zip(states[number], states[number + 1], strict=True)]
        assert all(same) if was_skipped else not any(same)
    assert all(step.losses and set(step.gradient_norms) <= {"lora", "tokens"} for step in steps)
    for kill in (1, 4):
        with curve_training(half, config) as training:
            restore(training, read_checkpoint(checkpoints.path(kill)))
            assert list(training.trainer.steps()) == steps[kill:]
            assert all(torch.equal(*pair) for pair in zip(weights(training), states[-1], strict=True))


def test_gradients_that_no_factor_saves(folder: Path, half: ModelFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    with curve_training(half, curve_config(str(folder))) as training:
        at_scale(training, 1.0)
        training.trainer.trainables[0].parameters[0].register_hook(lambda gradient: gradient * float("inf"))
        with pytest.raises(TrainingDiverged, match=r"mixed_precision: fp16: .* Train in bf16, or with .* no"):
            list(training.trainer.steps())


READ_BY_LANGUAGE_MODELS = "prompts .* are encoded by language models"


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (write_sd3, READ_BY_LANGUAGE_MODELS),
        (write_flux1, READ_BY_LANGUAGE_MODELS),
        (write_cascade, "Stage C of Stable Cascade overflows in fp16"),
        (write_stage_b, "Stage C of Stable Cascade overflows in fp16"),
    ],
)
def test_bases_that_overflow_are_refused(write: Any, why: str, tmp_path: Path) -> None:
    family = load_base_model(str(write(tmp_path)), torch.float16)
    with pytest.raises(ConfigError, match=f"mixed_precision: fp16: {why}.*; set bf16, or no"):
        require_precision(family, torch.float16)
    require_precision(family, torch.bfloat16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "dora"}, "mixed_precision: fp16 with adapter: dora needs a GPU; set .* choose the adapter lora"),
        ({"adapter": "full", "learning_rate": 1e-5}, "adapter: full does not support mixed_precision: fp16"),
    ],
)
def test_adapters_that_it_does_not_do_for(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {"base_model": "mini-sdxl", "mixed_precision": "fp16", **settings}
    with pytest.raises(ConfigError, match=message):
        list(run(build_config(values), [EXAMPLE], OutputFolder.create(tmp_path / "out")))


@pytest.mark.slow
def test_a_whole_run(folder: Path, tmp_path: Path) -> None:
    """Trains on images, and loads the artifact with the predictor, which must not warn that the base model differs."""
    config = TrainingConfig(
        base_model=str(folder), mixed_precision="fp16", max_train_steps=3, train_batch_size=2, learning_rate=1e-2,
        token_learning_rate=1e-2, num_validation_images=1, num_inference_steps=2, evaluate="false", captioner="none",
        lr_warmup_steps=0,
    )  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    lines = [str(progress) for progress in run(config, [EXAMPLE], output)]
    rows = [json.loads(line) for line in output.metrics.read_text(encoding="utf-8").splitlines()]
    assert [row["loss_scale"] for row in rows] == [2.0**16] * 3 and not any(row["skipped"] for row in rows)
    assert not [line for line in lines if "overflow" in line or "not learned" in line]
    from sampler.generation import Generation
    from sampler.sampler import SampleRequest
    from sampler.weights import read_weights

    said: list[str] = []
    request = SampleRequest("a photo of TOK", width=64, height=64, num_inference_steps=1)
    Generation(said.append).generate(request, read_weights(str(output.weights), "1", local_files=True), None)
    assert not [line for line in said if "whose weights differ" in line]

"""Tests of the verdict on real trainings: one that is far too long with high learning rates, and one that is far too
short."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifact.artifact import Artifact
from evaluation.checkpoints import drawing_plan, load_encoders
from evaluation.choice import Relative, relate
from evaluation.drawing import draw_samples
from evaluation.scores import Judge
from evaluation.subject_pictures import references
from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.run import run
from preprocess.dataset import PreparedDataset
from sampler.sampler import Sampler
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from trainer.checkpoints.folders import WEIGHTS, Checkpoints

COMMON: dict[str, Any] = {
    "base_model": "mini-sdxl", "class_word": "figure", "train_batch_size": 2, "rank": 8, "caption_dropout": 0.0,
    "lora_targets": "attention+feed-forward+convolutions", "num_validation_images": 0, "num_inference_steps": 8,
    "guidance_scale": 1.5, "evaluation_scales": [1.0], "evaluation_samples": 2, "lr_scheduler": "constant",
    }  # fmt: skip
OVERFIT = {
    "max_train_steps": 100, "learning_rate": 1e-2, "token_learning_rate": 3e-2, "lr_warmup_steps": 60,
    "checkpointing_steps": 20, "evaluation_checkpoints": 5,
}  # fmt: skip
SHORT = {"max_train_steps": 4, "learning_rate": 1e-4, "evaluate": True}


def trained(settings: dict[str, Any], folder: Path) -> tuple[TrainingConfig, OutputFolder, dict[str, Any]]:
    """Runs a training. Returns its configuration, its output folder and its report.json."""
    config = build_config({**COMMON, **settings})
    output = OutputFolder.create(folder)
    for _ in run(config, [EXAMPLE], output):
        pass
    return config, output, json.loads(output.report.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_an_overfit_run_is_named_and_an_earlier_step_is_better(seed: int, base: ModelFamily, tmp_path: Path) -> None:
    config, output, report = trained({**OVERFIT, "seed": seed}, tmp_path / "out")
    evaluation = report["evaluation"]
    print(evaluation["verdict"], [(one["step"], one["relative"]) for one in evaluation["candidates"]])
    assert evaluation["verdict"]["length"] == "overfit"
    assert evaluation["chosen"]["step"] < 100

    returned = Artifact.read(output.weights)
    assert returned.description is not None and returned.description.steps == evaluation["chosen"]["step"]
    assert returned.description.recommended_scale == evaluation["chosen"]["scale"]
    last = Artifact.read(Checkpoints(output.checkpoints).path(100) / WEIGHTS)
    ours, theirs = (judged(config, output, base, artifact) for artifact in (returned, last))
    assert ours.quality > theirs.quality  # with seeds that the choice has not used
    assert ours.kept > theirs.kept
    assert output.page.stat().st_size < 15_000_000


@pytest.mark.slow
def test_a_short_run_is_named(tmp_path: Path) -> None:
    _, _, report = trained(SHORT, tmp_path / "out")
    verdict = report["evaluation"]["verdict"]
    assert verdict["length"] == "too short"
    assert verdict["learning"] != "learned"  # samples of the class word are slightly similar to the images
    assert "too short: 4 steps were not enough" in verdict["headline"]


def judged(config: TrainingConfig, output: OutputFolder, base: ModelFamily, artifact: Artifact) -> Relative:
    """Returns an artifact's measures on seeds that the run has not used."""
    plan = replace(
        drawing_plan(config.validation, config.preparation, config.base_model, base.native_resolution), seed=77_777
    )
    sampler = Sampler(base)
    pictures = references(PreparedDataset.read(output.dataset))
    encoders = load_encoders(config.validation, config.base_model, base.device)
    judge = Judge(encoders, plan, pictures, draw_samples(sampler, plan, plain=True))
    sampler.load(artifact)
    try:
        return relate(judge.score(draw_samples(sampler, plan)), judge.base, judge.training_pictures)
    finally:
        sampler.unload()

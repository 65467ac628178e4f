"""Tests of whole runs with `trigger_word: ""`: nothing is added to captions, prompts, text encoders or the artifact."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from artifact.artifact import Artifact
from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.run import run
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE
from trainer.resolution import resolve

SETTINGS: dict[str, Any] = {
    "base_model": "mini-sdxl", "trigger_word": "", "captioner": "none", "max_train_steps": 2, "train_batch_size": 2,
    "rank": 2, "num_validation_images": 1, "num_inference_steps": 2,
}  # fmt: skip
FIRST_CAPTION = "a photo of TOK"
"""The caption in the example's file. Here TOK is text like any other."""


@pytest.mark.slow
def test_a_run_knows_no_word_anywhere(tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "out")
    evaluated = {"evaluate": "true", "evaluation_samples": 1, "evaluation_scales": [1.0], "caption_dropout": 0.0}
    list(run(build_config(SETTINGS | evaluated), [EXAMPLE], output))
    artifact = Artifact.read(output.weights)
    assert artifact.tokens == {} and artifact.triggers == {} and not output.embeddings.exists()
    assert artifact.description is not None and artifact.description.sample_prompts == [FIRST_CAPTION]
    report = json.loads(output.report.read_text())
    assert report["triggers"] == [] and report["config"]["num_tokens"] == 0
    assert report["config"]["validation_prompt"] == FIRST_CAPTION
    assert report["evaluation"]["trigger"] is None
    captions = [json.loads(line)["caption"] for line in (output.dataset / "dataset.jsonl").read_text().splitlines()]
    prompts = report["evaluation"]["picture_prompts"]
    assert len(prompts) >= 2 and prompts == list(dict.fromkeys(captions))[:4]


@pytest.mark.slow
def test_a_concept_with_a_word_beside_it_has_the_tokens(tmp_path: Path) -> None:
    concepts = [{"trigger_word": "", "folder": "elsewhere"}, {"trigger_word": "TOK", "class_word": "robot"}]
    (tmp_path / "data" / "elsewhere").mkdir(parents=True)
    with zipfile.ZipFile(EXAMPLE) as archive:
        for name in ("robot_0.png", "robot_0.txt", "robot_1.png", "robot_1.txt"):
            folder = tmp_path / "data" / ("elsewhere" if "_0" in name else ".")
            (folder / name).write_bytes(archive.read(name))
    output = OutputFolder.create(tmp_path / "out")
    settings = {name: value for name, value in SETTINGS.items() if name != "trigger_word"}
    list(run(build_config(settings | {"concepts": concepts, "num_tokens": 1}), [tmp_path / "data"], output))
    artifact = Artifact.read(output.weights)
    assert artifact.triggers == {"TOK": ["<s0>"]}
    report = json.loads(output.report.read_text())
    assert report["config"]["validation_prompts"] == ["a photo of TOK robot", FIRST_CAPTION]
    assert len(list(output.samples.glob("*.png"))) == 2
    assert {rows.shape[0] for rows in artifact.tokens.values()} == {1}


@pytest.mark.parametrize(
    "setting", [{"token_norm_weight": 0.1}, {"token_init_words": "robot"}, {"adapter": "none", "rank": 16}]
)
def test_settings_of_tokens_are_refused(setting: dict[str, Any], base: ModelFamily) -> None:
    with pytest.raises(ConfigError, match="an empty trigger_word, which has no tokens"):
        resolve(build_config(SETTINGS | setting), base)

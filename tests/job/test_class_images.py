"""Tests of class images, which the base model generates before training as its preservation set."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from job.class_images import class_prompts
from job.output_folder import OutputFolder
from job.progress import Progress
from job.run import run
from preprocess.dataset import PreparedDataset
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE

OPTIONS = {"base_model": "mini-sdxl", "num_validation_images": 0, "max_train_steps": 1, "train_batch_size": 1,
           "captioner": "none", "num_inference_steps": 2}  # fmt: skip
SHORT: dict[str, Any] = {**OPTIONS, "class_word": "figure", "num_class_images": 10, "preservation_weight": 0.5}


def trained(config: TrainingConfig, source: Path, folder: Path) -> list[Progress]:
    return list(run(config, [source], OutputFolder.create(folder)))


@pytest.mark.slow
def test_the_base_draws_the_class_as_a_preservation_set(tmp_path: Path) -> None:
    events = trained(build_config(SHORT), EXAMPLE, tmp_path / "out")
    drawn = sorted((tmp_path / "out" / "class_images").glob("*.png"))
    assert [event.message for event in events if "class images" in event.message] == [
        "generating class images: 8 of 10", "generating class images: 10 of 10"]  # fmt: skip
    assert len({Image.open(path).tobytes() for path in drawn}) == 10
    examples = PreparedDataset.read(tmp_path / "out" / "dataset").examples
    kept = [example for example in examples if example.concept is None]
    assert [(example.caption, example.weight) for example in kept] == [("a photo of figure", 0.5)] * 10
    assert len(examples) == 18
    again = trained(build_config(SHORT), tmp_path / "out" / "dataset", tmp_path / "again")
    assert any(event.warning and "num_class_images has no effect" in event.message for event in again)
    assert not (tmp_path / "again" / "class_images").exists()


def test_each_class_is_drawn_in_turn() -> None:
    concepts = [{"trigger_word": "ANN", "class_word": "dog"}, {"trigger_word": "B", "class_word": "cat"},
                {"trigger_word": "C", "class_word": "dog"}, {"trigger_word": "D"}]  # fmt: skip
    assert class_prompts(None, build_config({"concepts": concepts, "num_class_images": 4})) == [
        "a photo of dog", "a photo of cat"]  # fmt: skip
    assert class_prompts("dogs", build_config({})) == ["dogs"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_class_images": 4}, "num_class_images needs a class_word"),
        ({"num_class_images": 4, "class_word": "dog", "preservation_data": "x.zip"}, "leave one of them out"),
        ({"class_prompt": "a dog"}, "class_prompt has no effect without num_class_images"),
        ({"preservation_weight": 2.0}, "no effect without preservation_data"),
    ],
)
def test_wrong_settings_name_the_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)

"""Several prompts of samples: each has its pictures, in the folder, in the report and in the trackers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifact.artifact import Artifact
from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.resume import resumed_config
from job.run import run
from job.trackers import _by_prompt
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from trainer.resolution import resolve

SETTINGS: dict[str, Any] = {
    "base_model": "mini-sdxl", "class_word": "robot", "captioner": "none", "max_train_steps": 1, "rank": 2,
    "num_validation_images": 2, "num_inference_steps": 1, "evaluate": "false",
}  # fmt: skip
PROMPTS = ("a photo of TOK", "TOK on a red background", "a blue star")


@pytest.mark.slow
def test_each_prompt_has_its_pictures_everywhere(tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "out")
    config = build_config(SETTINGS | {"validation_prompts": list(PROMPTS), "sample_steps": 1})
    lines = [str(event) for event in run(config, [EXAMPLE], output)]
    names = [f"{number:02d}.png" for number in range(6)]
    for folder in (output.samples, output.samples_before, output.samples_of_step(1)):
        assert sorted(path.name for path in folder.glob("*.png")) == names
    of_pictures = [prompt for prompt in PROMPTS for _ in range(2)]
    assert json.loads(output.step_prompts.read_text()) == of_pictures
    assert "sampling 6 images" in lines
    artifact = Artifact.read(output.weights)
    assert artifact.description is not None and artifact.description.sample_prompts == list(PROMPTS)
    page = output.page.read_text(encoding="utf-8")
    assert all(prompt in page for prompt in PROMPTS)
    pictures = [np.asarray(Image.open(output.samples_before / name)) for name in names]
    assert not np.array_equal(pictures[0], pictures[4])  # another prompt, the same seed


@pytest.mark.parametrize(
    ("prompts", "names"),
    [
        (["a"] * 4, ["samples"]),
        (["a", "a", "b", "b"], ["samples_00", "samples_01"]),
        (["a", "b", "c", "c"], ["samples_00", "samples_01", "samples_02"]),
    ],
)
def test_trackers_have_a_row_for_each(prompts: list[str], names: list[str]) -> None:
    images = [np.full((2, 2, 3), number) for number in range(4)]
    rows = list(_by_prompt(images, prompts))
    assert [name for name, _, _ in rows] == names
    assert [int(image[0, 0, 0]) for _, _, row in rows for image in row] == [0, 1, 2, 3]


def test_lines_of_a_file_are_prompts(base: ModelFamily, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa photo of TOK\n\n# not this one\r\n  TOK at sea  \n".encode())
    found = resolve(build_config(SETTINGS | {"validation_prompts_file": file}), base)
    assert found.validation_prompts == ("a photo of TOK", "TOK at sea") and found.validation_prompts_file is None
    assert found.validation_prompt == "a photo of TOK"
    build_config(found.model_dump())  # what config.yaml says can be read again


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\x00", b"a\n" * 65])
def test_a_file_without_prompts_is_an_error(content: bytes | None, base: ModelFamily, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="validation_prompts_file: .*(cannot be read|prompts; give 1 to 64)"):
        resolve(build_config(SETTINGS | {"validation_prompts_file": file}), base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_prompts": ["a", " "]}, "one of them is empty"),
        ({"validation_prompts": ["a", "b"], "validation_prompt": "c"}, "takes the place of validation_prompt"),
        ({"validation_prompts": ["a"], "validation_prompts_file": "b.txt"}, "leave the settings of single ones out"),
    ],
)
def test_one_place_for_prompts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(SETTINGS | settings)


def test_a_resumed_run_may_have_others(base: ModelFamily) -> None:
    saved = resolve(build_config(SETTINGS | {"validation_prompts": list(PROMPTS)}), base)
    assert resumed_config(saved, TrainingConfig(validation_prompt="TOK")).validation_prompts == ()
    other = resumed_config(saved, TrainingConfig(validation_prompts=("TOK", "a TOK")))
    assert (other.validation_prompts, other.validation_prompt) == (("TOK", "a TOK"), None)
    assert resumed_config(saved, TrainingConfig()).validation_prompts == PROMPTS

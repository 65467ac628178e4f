"""Tests of several prompts of samples: each has its images in the folder, in the report and in trackers."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from artifact.artifact import Artifact
from artifact.metadata import ArtifactDescription, counted_through
from evaluation.concepts import likeness_said
from families.family import ModelFamily
from job.embedding_files import write_embedding_files
from job.known_prompts import known_prompts
from job.output_folder import OutputFolder
from job.resume import resumed_config
from job.run import run
from job.samples import SampleSettings, write_samples
from job.trackers import _by_prompt
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from trainer.resolution import resolve
from trainer.validation.sample_prompts import chosen_prompts, prompt_notes, sample_prompts, with_prompt_of_captions

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


def test_prompts_without_samples_are_noted() -> None:
    without = SETTINGS | {"num_validation_images": 0, "validation_prompts": list(PROMPTS)}
    (note,) = prompt_notes(build_config(without))
    assert note.startswith("validation_prompts: no samples are generated with num_validation_images: 0")
    assert not list(prompt_notes(build_config(without | {"num_validation_images": 1})))


CONCEPTS = [{"trigger_word": "ANN", "class_word": "robot", "folder": "a"}, {"trigger_word": "BOB", "folder": "b"}]


@pytest.mark.slow
def test_each_of_two_concepts_has_samples_and_a_score(tmp_path: Path) -> None:
    with zipfile.ZipFile(EXAMPLE) as archive:
        for number, name in enumerate([each for each in sorted(archive.namelist()) if each.endswith(".png")][:4]):
            target = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
    settings = {name: value for name, value in SETTINGS.items() if name != "class_word"} | {
        "concepts": CONCEPTS, "num_validation_images": 3, "evaluate": "true", "evaluation_samples": 1,
        "evaluation_scales": [1.0], "prior_matching_weight": 0.0,
    }  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    list(run(build_config(settings), [tmp_path / "data"], output))
    prompts = ["a photo of ANN robot", "a photo of BOB"]
    for folder in (output.samples, output.samples_before):
        assert sorted(path.name for path in folder.glob("*.png")) == ["00.png", "01.png"]  # 3 images for 2 concepts
    report = json.loads(output.report.read_text("utf-8"))
    page = output.page.read_text("utf-8")
    assert report["config"]["validation_prompts"] == prompts and all(prompt in page for prompt in prompts)
    reached = report["evaluation"]["by_concept"]
    assert list(reached) == ["ANN", "BOB"] and reached["ANN"] == report["evaluation"]["chosen"]["relative"]["fidelity"]
    said = report["evaluation"]["verdict"]["reasons"][-1]
    assert said.startswith(
        "Checkpoint and scale are chosen by the concept ANN. Likeness to each concept's training images: ANN "
    )


@pytest.mark.parametrize(
    ("concepts", "given", "prompts", "count"),
    [
        (2, {}, 2, 2),
        (5, {}, 5, 1),
        (2, {"num_validation_images": 7}, 2, 3),
        (2, {"num_validation_images": 0}, 2, 0),
        (70, {"num_tokens": 1}, 64, 1),
        (2, {"validation_prompt": "a photo of C1"}, 0, 4),
        (2, {"validation_prompts": ["C0", "C1", "C1 and C0"], "num_validation_images": 4}, 3, 4),
    ],
)
def test_samples_are_divided_among_concepts(
    concepts: int, given: dict[str, Any], prompts: int, count: int, base: ModelFamily
) -> None:
    listed = [{"trigger_word": f"C{number}", "folder": str(number)} for number in range(concepts)]
    config = resolve(build_config({"base_model": "mini-sdxl", "concepts": listed, **given}), base)
    assert (len(config.validation_prompts), config.num_validation_images) == (prompts, count)
    again = resolve(config, base)
    assert (again.validation_prompts, again.num_validation_images) == (config.validation_prompts, count)


@pytest.mark.parametrize(
    ("given", "prompts", "count"),
    [
        ({}, 2, 2),
        ({"num_validation_images": 4}, 2, 2),
        ({"num_validation_images": 2}, 2, 1),
        ({"num_validation_images": 0}, 2, 0),
        ({"validation_prompts": [], "num_validation_images": 8}, 2, 4),
        ({"validation_prompts": []}, 2, 2),
        ({"validation_prompts": ["C0", "C1"], "num_validation_images": 4}, 2, 4),
    ],
)
@pytest.mark.parametrize("second", ["C1", ""])
def test_samples_of_a_resumed_run_are_divided_as_before(
    second: str, given: dict[str, Any], prompts: int, count: int, base: ModelFamily
) -> None:
    listed = [{"trigger_word": word, "folder": str(number)} for number, word in enumerate(("C0", second))]
    data: Any = SimpleNamespace(examples=[SimpleNamespace(caption="a house", concept=second)])
    saved = resolve(build_config({"base_model": "mini-sdxl", "concepts": listed}), base)
    saved = build_config(with_prompt_of_captions(saved, data).model_dump(mode="json"))
    resumed = resolve(resumed_config(saved, build_config({"concepts": listed, **given})), base)
    assert (len(resumed.validation_prompts), resumed.num_validation_images) == (prompts, count)


def test_samples_take_the_place_of_those_before(tmp_path: Path) -> None:
    """A resumed run may generate fewer samples, or none."""
    sampler = SimpleNamespace(generate=lambda request, triggers: [Image.new("RGB", (8, 8))] * request.num_outputs)
    (tmp_path / "before").mkdir()
    for count, prompts in ((3, ("a", "b")), (1, ("a", "b")), (0, ("a",))):
        settings = SampleSettings(prompts, prompts, count, 8, 1, 1.0, 0)
        write_samples(settings, sampler, tmp_path)  # type: ignore[arg-type]
        assert len(list(tmp_path.glob("*.png"))) == count * len(prompts)
    assert (tmp_path / "before").is_dir()


@pytest.mark.parametrize(
    ("reached", "concepts", "said"),
    [
        ({"A": 0.8, "B": 0.6}, 2, "training images: A 80%, B 60%."),
        ({"A": 0.8, "B": 0.3, "C": 0.1}, 3, "C 10%. C is not learned. B is only partly learned."),
        (
            {"A": 0.1, "B": 0.2, "C": 0.0},
            9,
            "(the first 3 of 9 concepts): A 10%, B 20%, C 0%. A, B and C are not learned.",
        ),
    ],
)
def test_a_concept_that_was_not_learned_is_named(reached: dict[str, float], concepts: int, said: str) -> None:
    assert likeness_said(reached, concepts).endswith(said)


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
    build_config(found.model_dump())  # the values in config.yaml can be read again


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
        (
            {"validation_prompts": ["a", "b"], "validation_prompt": "c"},
            "replaces validation_prompt; leave one of them out",
        ),
        (
            {"validation_prompts": ["a"], "validation_prompts_file": "b.txt"},
            "validation_prompts_file replaces validation_prompt and",
        ),
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


@pytest.mark.parametrize("values", [{"loss_type": "dco"}, {"prior_matching_weight": 1.0}, {}])
def test_a_frozen_text_encoder_gets_all_prompts_of_training_before_the_denoiser_is_loaded(
    values: dict[str, Any],
) -> None:
    """Also all captions of an image with several, and those that a loss asks the base model for."""
    example = SimpleNamespace(captions=("TOK at sea", "a red TOK"))
    samples = SimpleNamespace(prompts=(), plain=())
    job = SimpleNamespace(
        config=build_config({"class_word": "robot", **values}), dataset=SimpleNamespace(examples=[example]),
        samples=samples, encoders=None,
    )  # fmt: skip
    plain = {"robot at sea", "a red robot", "robot"} if values else set()
    assert set(known_prompts(job)) == {"TOK at sea", "a red TOK", "TOK", "", *plain}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ()),
        ({"validation_prompt": "a house"}, ("a house",)),
        ({"validation_prompts": ("a house", "a tree")}, ("a house", "a tree")),
        ({"trigger_word": ""}, ()),
        ({"trigger_word": "", "validation_prompt": "a house"}, ("a house",)),
    ],
)
def test_the_users_prompts_are_known_in_a_resumed_run(values: dict[str, Any], expected: tuple[str, ...]) -> None:
    """Samples of a ControlNet have the captions of their images without them."""
    example = SimpleNamespace(caption="a blue star", concept="")
    dataset: Any = SimpleNamespace(examples=[example])
    config = build_config({"adapter": "controlnet", "control": "canny", **values})
    found = sample_prompts(config.validation, config.preparation, concepts_apart=False)
    config = with_prompt_of_captions(config.with_values(found), dataset)
    assert chosen_prompts(config, dataset) == expected
    saved = build_config(config.model_dump(mode="json"))
    assert chosen_prompts(resumed_config(saved, TrainingConfig()), dataset) == expected


def test_the_files_of_several_trigger_words_have_their_rows_alone(tmp_path: Path) -> None:
    rows = torch.arange(15.0).view(3, 5)
    description = ArtifactDescription(
        family="sdxl", base_model="base", base_fingerprint="", prediction_type="epsilon",
        triggers=counted_through({"A/B": 2, "ab": 1}), steps=1, config={}, dataset_digest="",
    )  # fmt: skip
    output = OutputFolder(tmp_path)
    write_embedding_files(Artifact({}, {"clip_l": rows}, description), output)
    whole, first, second = (
        load_file(path)["clip_l"]
        for path in (output.embeddings, *(output.embeddings_apart / f"{name}.safetensors" for name in ("AB", "ab-2")))
    )
    assert torch.equal(whole, rows) and torch.equal(first, rows[:2]) and torch.equal(second, rows[2:])
    assert Artifact.read(output.embeddings_apart / "ab-2.safetensors").triggers == {"ab": ["<s0>"]}
    alone = replace(description, triggers=counted_through({"A/B": 3}))
    write_embedding_files(Artifact({}, {"clip_l": rows}, alone), output)
    assert not output.embeddings_apart.exists()

"""Tests of comparing LoRAs: errors in a protocol, and the command on the embedded base model with random LoRAs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from artifact.names.kohya import kohya_name
from evaluation.choice import Relative
from evaluation.comparison.command_line import _named, main
from evaluation.comparison.compare import Row, _unrelated, compare, load_encoders, require_unrelated
from evaluation.comparison.protocol import Protocol, Subject, picture_files, read_protocol, reference_picture
from evaluation.comparison.table import markdown, page
from families.family import ModelFamily
from settings.record import ConfigError
from tests.conftest import PROJECT
from tests.job.report_folder import scores
from tools.make_example import robot

if TYPE_CHECKING:
    from tests.browser import Browser

pytest_plugins = ["tests.browser"]

PROTOCOL: dict[str, Any] = {
    "base_model": "mini-sdxl",
    "prompts": ["a photo of a {trigger}", "a photo of a {trigger} on a green background"],
    "unrelated_prompts": ["a photo of a red star"],
    "samples_per_prompt": 1, "num_inference_steps": 2, "guidance_scale": 1.0, "scales": [0.5, 1.0],
}  # fmt: skip


def write_lora(base: ModelFamily, path: Path, strength: float) -> Path:
    """Writes a random LoRA of one layer, as another tool does."""
    name = next(name for name, _ in base.denoiser.named_modules() if name.endswith("to_q"))
    weight = base.denoiser.get_submodule(name).weight
    down, up = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in
                ((2, weight.shape[1]), (weight.shape[0], 2)))  # fmt: skip
    key = kohya_name(name, base.denoiser.config.layers_per_block)
    tensors = {
        f"{key}.lora_down.weight": down,
        f"{key}.lora_up.weight": up * strength,
        f"{key}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, path)
    return path


@pytest.fixture
def protocol(base: ModelFamily, tmp_path: Path) -> Path:
    """The file of a protocol with two LoRAs of one subject, and three images of it."""
    (tmp_path / "pictures").mkdir()
    for index, background in enumerate(("blue", "white", "red")):
        robot(64, background, random.Random(index)).save(tmp_path / f"pictures/{index}.png")
    for name, strength in (("weak", 0.0), ("strong", 0.5)):
        write_lora(base, tmp_path / f"{name}.safetensors", strength)
    subject = {"name": "robot", "pictures": "pictures", "class_word": "figure",
               "loras": {"weak": "weak.safetensors", "strong & <b>": "strong.safetensors"}}  # fmt: skip
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({**PROTOCOL, "subjects": [subject]}, sort_keys=False))
    return path


@pytest.mark.slow
def test_the_command_writes_table_scores_and_page(protocol: Path, tmp_path: Path, browser: Browser) -> None:
    out = tmp_path / "out"
    assert main([str(protocol), "--output", str(out)]) == 0
    rows = json.loads((out / "scores.json").read_text())
    assert [(row["lora"], row["scale"]) for row in rows] == [
        (None, None), ("weak", 0.5), ("weak", 1.0), ("strong & <b>", 0.5), ("strong & <b>", 1.0),
    ]  # fmt: skip
    assert rows[1]["scores"] == rows[0]["scores"]  # a LoRA without effect has the base model's scores
    assert rows[4]["scores"]["prior_kept"] < rows[3]["scores"]["prior_kept"] < 1
    table = (out / "table.md").read_text()
    assert table.count("\n") == 7 and "DINO-I" not in table and "CLIP-T" in table
    for width, scheme in ((1280, "light"), (360, "dark")):
        browser.open(out / "comparison.html", width, scheme=scheme)
        assert browser.complaints() == [] and browser.faint_texts() == []
        assert browser.too_wide() == [] and browser.small_texts() == []
    assert browser.run("return [...document.images].every((one) => one.naturalWidth > 0)")
    assert browser.run("return document.querySelectorAll('tbody tr').length") == 5
    assert main([str(protocol), "--output", str(out)]) == 2  # the folder is not empty


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ["a dog"]}, "each must contain {trigger}"),
        ({"subjects": [{"name": "a", "loras": {"x": "gone.safetensors"}}]}, "a: .*gone.safetensors does not exist"),
        ({"subjects": [{"name": "a", "pictures": "gone"}]}, "the folder .*gone does not exist, or contains no images"),
        ({"subjects": []}, "subjects"),
        ({"sides": 3}, "unknown setting"),
    ],
)
def test_wrong_protocols_are_explained(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({**PROTOCOL, "subjects": [{"name": "a"}], **changes}))
    with pytest.raises(ConfigError, match=message):
        read_protocol(path)


def test_dreambench_is_a_protocol() -> None:
    """benchmarks/dreambench.yaml has DreamBench's thirty subjects and twenty-five prompts."""
    text = (PROJECT / "benchmarks" / "dreambench.yaml").read_text(encoding="utf-8")
    protocol = Protocol(**yaml.safe_load(text))
    assert len(protocol.subjects) == 30 and protocol.samples_per_prompt == 4
    assert len(protocol.prompts) == 25


def test_names_with_bars_stay_in_their_cells_and_the_best_is_marked() -> None:
    picture = [Image.new("RGB", (8, 8))]
    rows = [
        Row("cat", None, None, scores(0.1), None, picture),
        Row("cat", "a | b", 1.0, scores(0.5), Relative(0.5, 0.5, 0.9, 0.6), picture),
    ]
    assert "| cat | a \\| b | 1 |" in markdown(rows)
    text = page(rows, ["a {trigger}"])
    assert "<strong>a | b</strong> has the best quality: 0.60" in text
    assert '<tr class="returned"><td class="text">a | b</td><td>1</td>' in text and "<td>cat" not in text


def test_where_all_have_lost_something_none_is_best() -> None:
    lost = Row("cat", "a", 1.0, scores(0.5), Relative(0.5, 0.0, 0.9, 0.0), [Image.new("RGB", (8, 8))])
    text = page([lost, replace(lost, scale=0.5)], ["a {trigger}"])
    assert "No LoRA has a quality above 0" in text and 'class="returned"' not in text


def test_files_are_named_shortly() -> None:
    assert _named([Path("x/a.safetensors"), Path("x/b.safetensors")]) == {
        "a": Path("x/a.safetensors"), "b": Path("x/b.safetensors"),
    }  # fmt: skip
    assert list(_named([Path("x/a.safetensors"), Path("y/a.safetensors")])) == ["x/a.safetensors", "y/a.safetensors"]


def test_a_foreign_file_needs_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.safetensors"), "--output", str(tmp_path / "o")]) == 2
    assert "no.safetensors does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--seed", "3"],
            "error: seed: has no effect with a protocol; set it in the protocol, and leave it out here\n",
        ),
        (["--prompt", "a {trigger}"], "error: prompt: has no effect with a protocol"),
        (["second.yaml"], "error: files: give one protocol; second.yaml is additional\n"),
    ],
)
def test_what_a_protocol_leaves_no_room_for_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["protocol.yaml", *words, "--output", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_every_row_has_the_same_unrelated_prompts(base: ModelFamily, tmp_path: Path) -> None:
    """The class word and the LoRA's own word are in different ones of the default prompts."""
    file = write_lora(base, tmp_path / "a.safetensors", 0.3)
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in base.text_encoders]
    named = zip(base.encoder_names, widths, strict=True)
    rows = {f"bundle_emb.cross.{name}": torch.zeros(1, width) for name, width in named}
    save_file({**load_file(file), **rows}, file)
    subject = Subject(name="ring", class_word="ring", loras={"a": file})
    few = {**PROTOCOL, "unrelated_prompts": (), "num_inference_steps": 1, "scales": (1.0,)}
    protocol = Protocol(**{**few, "subjects": (subject,)})
    of_base, of_lora = compare(protocol, base, load_encoders(protocol, torch.device("cpu")))
    assert of_base.scores.prior_kept == pytest.approx(1.0) and of_lora.scores.prior_kept <= 1.0
    kept = _unrelated(protocol, subject)
    assert len(kept) == 4 and not [prompt for prompt in kept if "ring" in prompt or "cross" in prompt]
    with pytest.raises(ConfigError, match=r"each default one contains .* \(photo\); give others"):
        _unrelated(protocol, Subject(name="x", class_word="photo"))
    for words in ({"loras": {"a": file}}, {"trigger": "cross"}):
        given = Protocol(**{**few, "unrelated_prompts": ["a ring", "a cross"], "subjects": [{"name": "ring", **words}]})
        with pytest.raises(ConfigError, match="unrelated_prompts: 'a cross' contains the trigger word cross of the"):
            require_unrelated(given)


def test_reference_images_are_upright_and_readable(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    turned = Image.new("RGB", (32, 64), "red")
    turned.paste("blue", (0, 0, 32, 32))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(folder / "a.jpg", exif=exif)
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(folder / "b.PNG")
    turned.save(folder / "c.tif")
    assert [file.name for file in picture_files(folder)] == ["a.jpg", "b.PNG", "c.tif"]
    assert reference_picture(folder / "a.jpg").size == (64, 32)
    assert reference_picture(folder / "b.PNG").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["empty", "damaged", "file"])
def test_folders_without_readable_images_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, folder = tmp_path / "a.safetensors", tmp_path / "pictures"
    lora.touch()
    folder.touch() if kind == "file" else folder.mkdir()
    if kind == "damaged":
        (folder / "x.png").write_bytes(b"no image")
    command = [str(lora), "--base_model", "mini-sdxl", "--pictures", str(folder), "--output", str(tmp_path / "o")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert (
        told.count("\n") == 1 and ("x.png" if kind == "damaged" else "those in folders inside it are not used") in told
    )


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({**PROTOCOL, "subjects": [{"name": "a"}]}))
    assert main([str(path), "--output", str(tmp_path / "file" / "o")]) == 2
    assert "cannot be created" in capsys.readouterr().err

"""Tests that output folders that cannot be written to are one line, before any work."""

from pathlib import Path

import pytest
from PIL import Image

from evaluation.comparison.command_line import main as compare
from preprocess.command_line import main as prepare
from service.features.command_line import main as encode
from service.predict_command import main as predict
from service.sweep.command_line import main as sweep
from service.train_command import main as train
from settings.command_line.output import require_new_folder, require_writable
from settings.record import ConfigError
from tests.conftest import EXAMPLE

DATA = str(EXAMPLE)


@pytest.mark.parametrize("command", ["train", "predict", "prepare", "encode", "sweep", "compare"])
def test_a_folder_below_a_file_is_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "sweep.yaml").write_text("fields: {rank: [8]}")
    (tmp_path / "lora.safetensors").touch()
    output = ["--output", str(tmp_path / "file" / "out")]
    ended = {
        "train": lambda: train([DATA, "--base_model", "mini-sdxl", *output]),
        "predict": lambda: predict(["a photo", "--base_model", "mini-sdxl", *output]),
        "prepare": lambda: prepare([DATA, *output]),
        "encode": lambda: encode([DATA, "--base_model", "mini-sdxl", *output]),
        "sweep": lambda: sweep([DATA, "--sweep", str(tmp_path / "sweep.yaml"), *output]),
        "compare": lambda: compare([str(tmp_path / "lora.safetensors"), "--base_model", "mini-sdxl", *output]),
    }[command]()
    told = capsys.readouterr().err
    assert ended == 2 and told.count("\n") == 1
    assert told.startswith("error: output: ") and told.endswith("file is not a folder. Choose another folder.\n")


def test_names_that_are_too_long_and_folders_in_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be created"):
        require_writable(tmp_path / ("x" * 300))
    require_new_folder(tmp_path / "new" / "below")
    require_new_folder(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        require_new_folder(tmp_path)


@pytest.mark.parametrize("existed", [True, False])
def test_preparation_that_fails_leaves_no_files(existed: bool, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"broken")
    output = tmp_path / "out"
    if existed:
        output.mkdir()
    arguments = [str(tmp_path / "photos"), "--captioner", "none", "--quiet", "--output", str(output)]
    assert prepare(arguments) == 2
    assert output.exists() == existed and not list(output.glob("*"))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / "red.png")
    assert prepare(arguments) == 0

"""Tests of what a user sees of `python train.py` and `python predict.py`, wrong inputs first."""

import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml
from PIL import Image

from service import predict_command, train_command
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE, PROJECT, png
from tests.warm_process import WarmProcess, run_warm

MakeFiles = Callable[[Mapping[str, bytes]], Path]
QUICK = ["--base_model", "mini-sdxl", "--max_train_steps", "2", "--train_batch_size", "2", "--rank", "2",
         "--num_inference_steps", "2", "--num_validation_images", "2"]  # fmt: skip


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_warm([str(PROJECT / script), *map(str, arguments)], PROJECT)


def call(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Like `run`, but inside this process: for commands that end before the libraries are imported."""
    main = {"train.py": train_command.main, "predict.py": predict_command.main}[script]
    words = list(map(str, arguments))
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            status = main(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return subprocess.CompletedProcess([script, *words], status, out.getvalue(), err.getvalue())


def test_help_shows_the_main_settings_and_help_all_every_one() -> None:
    short, full = call("train.py", "--help"), call("train.py", "--help_all")
    assert (short.returncode, full.returncode) == (0, 0)
    assert len(train_command.MAIN_SETTINGS) == 15
    shown = {name for name in TrainingConfig.model_fields if f"  --{name} " in short.stdout}
    assert shown == set(train_command.MAIN_SETTINGS)
    assert all(f"  --{name} " in full.stdout for name in TrainingConfig.model_fields)
    assert "\nadapter:\n  The adapter on the denoiser, and on the text encoders.\n" in full.stdout
    assert "VALUE" not in full.stdout.partition("\n\n")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_train_steps", "0"], "max_train_steps: Input should be greater than or equal to 1 (given: '0')"),
        (["--rnk", "4"], "error: --rnk: unknown option; did you mean --rank?\n"),
        (["--lerning_rate", "1e-4"], "error: --lerning_rate: unknown option; did you mean --learning_rate?\n"),
        (["--network_dim", "8"], "error: --network_dim: unknown option; did you mean --rank?\n"),
        (["--output_dir", "out"], "error: --output_dir: unknown option; did you mean --output?\n"),
        (["--xyz", "1"], "error: --xyz: unknown option; see --help_all\n"),
        (["--rank"], "error: --rank: expected one argument\n"),
        (["--trackers", "tensorboard", "wnb"], "trackers.1: Input should be 'tensorboard' or 'wandb' (given: 'wnb')"),
        (["--config", "missing.yaml"], "config: cannot read missing.yaml"),
        (["--learning_rate", "fast"], "learning_rate: Input should be a valid number"),
        (["--config", str(PROJECT / "README.md")], "README.md"),
    ],
)
def test_wrong_settings_end_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call("train.py", EXAMPLE, "--output", tmp_path / "out", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_setting_in_a_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning_rat: 1e-4")
    result = call("train.py", EXAMPLE, "--output", tmp_path / "out", "--config", tmp_path / "c.yaml")
    assert (result.returncode, result.stderr) == (
        2,
        "error: learning_rat: unknown setting; did you mean learning_rate?\n",
    )


def test_an_imported_file_goes_before_the_defaults_and_after_the_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lora_rank: 8\nlora_alpha: 4\nsave_steps: 100\n")
    words = ["--import_config", str(tmp_path / "c.yaml"), "--rank", "2", "--preset", "sdxl-face"]
    config = train_command.resolve_config(train_command.build_parser().parse_args(words))
    assert (config.rank, config.alpha, config.checkpointing_steps, config.concept_mode) == (2, 4, 100, "face")


def test_an_imported_file_without_a_base_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model_version: 1B\nwebdataset_path: file:x.tar\nlr: 1e-4\nrank: 4\n")
    words = ["--cascade_config", str(tmp_path / "c.yaml")]
    result = call("train.py", *words)
    assert result.returncode == 2 and result.stderr.startswith("error: base_model: is missing. model_version: 1B")
    config = train_command.resolve_config(
        train_command.build_parser().parse_args([*words, "--base_model", "mini-sdxl"])
    )
    assert config.base_model == "mini-sdxl" and config.named_sources == ("x.tar",)


def test_missing_data_is_named(tmp_path: Path) -> None:
    result = call("train.py", "nowhere.zip", "--output", tmp_path / "out")
    assert result.returncode == 2 and "data: nowhere.zip does not exist" in result.stderr


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"a.png": png()}, ["--lora_target_regex", "x("], "lora_target_regex: 'x(' is not a valid regular expression"),
        ({"../a.png": png()}, [], "is an absolute path or contains .."),
        ({"a.png": png()}, ["--max_file_bytes", "10"], "larger than the 10 bytes"),
    ],
    ids=["expression", "path", "limit"],
)
def test_what_is_not_safe_is_refused_before_the_base_is_looked_for(
    files: Mapping[str, bytes], arguments: list[str], message: str, make_zip: MakeFiles, tmp_path: Path
) -> None:
    result = call(
        "train.py", make_zip(files), "--base_model", "/no/such/base", "--output", tmp_path / "out", *arguments
    )
    assert result.returncode == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    result = call("train.py", EXAMPLE, "--output", tmp_path, *QUICK)
    assert result.returncode == 2 and "exists and is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({}, [], "the archive is empty. Put the training images into it."),
        ({"readme.txt": b"hi"}, [], "no usable image among 1 files: readme.txt: is a caption without an image"),
        ({"a.jpg": b"text"}, [], "a.jpg: is not an image, or has a format"),
        (
            {"a.png": png()},
            ["--base_model", "/no/such/folder.safetensors"],
            "base_model: '/no/such",
        ),
        ({"a.png": png()}, ["--resolution", "100"], "resolution: 100 is not a multiple of 16"),
    ],
)
def test_bad_input_ends_with_file_reason_and_remedy(
    files: Mapping[str, bytes], arguments: list[str], message: str, make_zip: MakeFiles, tmp_path: Path
) -> None:
    result = run("train.py", make_zip(files), "--output", tmp_path / "out", *QUICK, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "weights.safetensors").exists()


@pytest.mark.slow
def test_the_whole_command_with_a_bad_file_among_good_ones(tmp_path: Path) -> None:
    source = tmp_path / "mixed.zip"
    source.write_bytes(EXAMPLE.read_bytes())
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("broken.jpg", b"\xff\xd8\xff cut")
    out = tmp_path / "out"
    drawn_least = ["--evaluation_samples", "1", "--evaluation_checkpoints", "1"]
    result = run("train.py", source, "--output", out, "--checkpointing_steps", "1", *drawn_least, *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(out / "weights.safetensors")
    assert "warning: not used: broken.jpg" in result.stdout
    assert "step 2/2: loss " in result.stdout and "ETA" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        "weights.safetensors", "embeddings.safetensors", "config.yaml", "sources.json", "metrics.jsonl", "report.json",
        "report.html", "comfyui.json", "dataset", "samples", "checkpoints", "evaluation",
    }  # fmt: skip
    assert len(list((out / "checkpoints").iterdir())) == 2
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert yaml.safe_load((out / "config.yaml").read_text())["resolution"] == 64

    drawn = ["--num_outputs", "2", "--num_inference_steps", "2", "--width", "96", "--seed", str(2**40)]
    weights = ["--weights", str(out / "weights.safetensors"), "--output", str(tmp_path / "images")]
    images = run("predict.py", "a photo of TOK", *weights, *drawn)
    assert images.returncode == 0, images.stderr
    paths = images.stdout.splitlines()
    assert [Path(path).name for path in paths] == ["00.png", "01.png"]
    assert Image.open(paths[0]).size == (96, 64)

    (tmp_path / "guide.yaml").write_text(f"lora_rank: 8\nvalidation_epochs: 9\noutput_dir: {tmp_path / '2'}\n")
    imported = ["--import_config", tmp_path / "guide.yaml"]
    again = run("train.py", EXAMPLE, *imported, "--config", out / "config.yaml", "--rank", "3")
    assert again.returncode == 0, again.stderr  # a written config can be used again; the command line wins
    assert yaml.safe_load((tmp_path / "2" / "config.yaml").read_text())["rank"] == 3
    note = "guide.yaml: validation_epochs: is left out"
    assert f"warning: {note}" in again.stdout and note in (tmp_path / "2" / "report.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "missing.safetensors"], "weights: missing.safetensors does not exist"),
        (["--weights", "https://127.0.0.1/x"], "not an address of the public internet"),
        (["--base_model", "mini-sdxl", "--mask", str(PROJECT / "docs" / "demo.png")], "mask: needs image"),
        (["--base_model", "mini-sdxl", "--image", str(PROJECT / "README.md")], "image: cannot be read as an image"),
        (["--base_model", "mini-sdxl", "--width", "100"], "width: 100 must be a multiple of 16"),
        (["--base_model", "nowhere"], "base_model: 'nowhere' is neither"),
    ],
)
@pytest.mark.slow
def test_wrong_requests_are_explained(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("predict.py", "a red star", "--output", tmp_path / "images", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "fast"], "error: scheduler: Input should be 'base', 'ddim', "),
        (["--num_outputs", "0"], "error: num_outputs: Input should be greater than or equal to 1 (given: '0')\n"),
        (["--output_format", "gif"], "error: output_format: Input should be 'png', 'webp' or 'jpg' (given: 'gif')\n"),
        (["--steps", "20"], "error: --steps: unknown option; did you mean --num_inference_steps?\n"),
        (["--image", "nowhere.png"], "error: image: nowhere.png does not exist\n"),
    ],
)
def test_wrong_options_of_the_predictor_end_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = call("predict.py", "a red star", "--output", tmp_path / "images", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_saves_what_was_trained(number: signal.Signals, tmp_path: Path) -> None:
    command = [str(PROJECT / "train.py"), str(EXAMPLE), *QUICK, "--max_train_steps", "100000",
               "--output", str(tmp_path / "out")]  # fmt: skip
    process = WarmProcess(command, PROJECT)
    process.wait_for("\nstep ")
    begun = time.monotonic()
    process.send(number)
    ended = process.result(60)
    assert time.monotonic() - begun < 10
    assert ended.returncode == 130
    assert f"the result so far is in {tmp_path / 'out' / 'weights.safetensors'}" in ended.stderr
    from artifact.artifact import Artifact

    description = Artifact.read(tmp_path / "out" / "weights.safetensors").description
    assert description is not None and description.steps >= 1

"""Tests of the presets: each is valid on the family that its name states, and explains its values."""

from pathlib import Path

import pytest
import torch

from families.registry import load_base_model
from service.train_command import build_parser, resolve_config
from service.training_request import merge_inputs
from settings.presets import preset_beside, preset_names, read_preset
from settings.record import ConfigError, read_settings_file
from settings.training import build_config
from tests.conftest import PROJECT
from tests.service.training_requests import training_request
from tests.tiny_models import write_flux1, write_flux2, write_sd3, write_sd15, write_sdxl, write_z_image
from tests.tiny_qwen_image import write_qwen_image
from trainer.resolution import resolve

PRESETS = sorted(path for path in (PROJECT / "configs").glob("*-*.yaml"))
WRITERS = {
    "sdxl": write_sdxl,
    "sd15": write_sd15,
    "sd35": write_sd3,
    "qwen-image": write_qwen_image,
    "z-image": write_z_image,
    "flux1": write_flux1,
    "flux2-klein": write_flux2,
}


RECIPES = sorted(path for path in (PROJECT / "configs").glob("*.yaml") if "_" in path.stem and "full" not in path.stem)
"""Presets for any base, which is given by --base_model."""


@pytest.mark.parametrize("kind", ["sdxl", "flux1"])
def test_a_recipe_is_valid_on_any_base(kind: str, tmp_path: Path) -> None:
    assert len(RECIPES) == 6
    family = load_base_model(str(WRITERS[kind](tmp_path / "base")), torch.float32)
    for recipe in RECIPES:
        values = read_settings_file(recipe)
        assert "base_model" not in values and "trigger_word" not in values
        resolved = resolve(build_config({**values, "base_model": str(tmp_path / "base")}), family)
        assert all(getattr(resolved, name) == value for name, value in values.items()), recipe.stem


def test_every_mode_has_a_preset_on_every_base() -> None:
    names = {path.stem for path in PRESETS}
    assert names == {f"{base}-{mode}" for mode in ("face", "object", "style") for base in WRITERS}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_valid_on_its_family(preset: Path, tmp_path: Path) -> None:
    base, mode = preset.stem.rsplit("-", 1)
    config = build_config(read_settings_file(preset))
    assert config.concept_mode == mode
    family = load_base_model(str(WRITERS[base](tmp_path / "base")), torch.float32)
    assert resolve(config, family).resolution == family.native_resolution


@pytest.mark.parametrize("preset", [*PRESETS, *RECIPES], ids=lambda path: path.stem)
def test_every_choice_is_explained(preset: Path) -> None:
    lines = preset.read_text(encoding="utf-8").splitlines()
    explained = [i for i, line in enumerate(lines) if "# " in line or lines[i - 1].startswith("# ")]
    assert len(explained) == len(lines)


def test_an_unknown_preset_names_the_nearest_or_all() -> None:
    with pytest.raises(ConfigError, match="^preset: 'sdxl_face' is unknown; did you mean sdxl-face\\?$"):
        read_preset("sdxl_face")
    for name in ("zzz", "../tests/x", "/etc/passwd"):
        with pytest.raises(ConfigError, match=r"is unknown; there are demo, .*sdxl-style"):
            read_preset(name)


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [
        ("five_pictures", {"max_train_steps": "50"}, {"checkpointing_steps": 10, "keep_checkpoints": 5}),
        ("five_pictures", {"max_train_steps": 3}, {"checkpointing_steps": 1}),
        ("five_pictures", {"max_train_epochs": 10}, {"checkpointing_epochs": 2}),
        ("five_pictures", {"max_train_steps": 50, "checkpointing_steps": 25}, {"checkpointing_steps": 25}),
        ("five_pictures", {"max_train_steps": 50, "checkpointing_minutes": 1}, {"checkpointing_minutes": 1}),
        ("full_fine_tuning", {"max_train_steps": 1200}, {"checkpointing_steps": 200}),
        ("five_pictures", {"rank": 8}, {"max_train_steps": 500, "checkpointing_steps": 100}),
        ("demo", {"max_train_steps": 40}, {"max_train_steps": 40}),
    ],
)
def test_checkpoints_of_a_preset_divide_the_length_that_is_given(
    preset: str, given: dict[str, object], expected: dict[str, object]
) -> None:
    config = build_config(preset_beside(preset, given) | given)
    intervals = dict.fromkeys(("checkpointing_steps", "checkpointing_epochs", "checkpointing_minutes"))
    for name, value in (intervals | expected).items():
        assert getattr(config, name) == value, name


def test_the_list_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args(["--list_presets"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(preset_names()) and any(
        line.startswith("sdxl-face ") and line.endswith("on SDXL.") for line in lines
    )


def test_file_and_options_go_before_a_preset(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("rank: 3\nmax_train_steps: 700\n")
    arguments = ["x.zip", "--preset", "sdxl-face", "--config", str(tmp_path / "own.yaml"), "--rank", "5"]
    config = resolve_config(build_parser().parse_args(arguments))
    assert (config.rank, config.max_train_steps, config.crop) == (5, 700, "face")


def test_inputs_and_text_go_before_a_preset() -> None:
    merged = merge_inputs(training_request(preset="sdxl-face", rank=5, config="max_train_steps: 700"))
    assert (merged["rank"], merged["max_train_steps"], merged["crop"]) == (5, 700, "face")
    with pytest.raises(ConfigError, match="preset: 'face' is unknown"):
        merge_inputs(training_request(preset="face"))

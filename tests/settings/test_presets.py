"""The ready-made configurations: each is valid on the family that its name says, and says why it is what it is."""

from pathlib import Path

import pytest
import torch

from families.registry import load_base_model
from settings.record import read_settings_file
from settings.training import build_config
from tests.conftest import PROJECT
from tests.tiny_models import write_sd3, write_sd15, write_sdxl
from trainer.resolution import resolve

PRESETS = sorted(path for path in (PROJECT / "configs").glob("*_*.yaml"))
WRITERS = {"sdxl": write_sdxl, "sd15": write_sd15, "sd35": write_sd3}


def test_every_mode_has_a_preset_on_every_base() -> None:
    names = {path.stem for path in PRESETS}
    assert names == {f"{mode}_{base}" for mode in ("face", "object", "style") for base in WRITERS}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_valid_on_its_family(preset: Path, tmp_path: Path) -> None:
    mode, base = preset.stem.split("_")
    config = build_config(read_settings_file(preset))
    assert config.concept_mode == mode
    family = load_base_model(str(WRITERS[base](tmp_path / "base")), torch.float32)
    assert resolve(config, family).resolution == family.native_resolution


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_choice_is_explained(preset: Path) -> None:
    lines = preset.read_text(encoding="utf-8").splitlines()
    explained = [i for i, line in enumerate(lines) if "# " in line or lines[i - 1].startswith("# ")]
    assert len(explained) == len(lines)

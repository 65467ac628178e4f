"""Tests that published settings and messages contain no path of this machine's disk."""

from pathlib import Path

import pytest

from settings.public import hide_paths, public_name, public_settings
from settings.training import TrainingConfig, build_config

DISK = "/srv/private/disk"


PATHS = {
    "preservation_data", "face_detector_model", "face_recognition_model", "compile_cache", "evaluation_face_model",
    "init_weights", "training_adapter",
}  # fmt: skip
HUB_IDS_OR_PATHS = {
    "base_model", "base_config", "vae", "captioner", "mask_model", "upscaler", "evaluation_clip", "evaluation_dino"
}  # fmt: skip


def test_every_setting_whose_description_names_a_path_is_among_them() -> None:
    described = {
        name for name, field in TrainingConfig.model_fields.items()
        if any(word in str(field.description) for word in ("hub id", "a folder in", "or folder", "or a folder", "ONNX"))
    }  # fmt: skip
    assert described <= PATHS | HUB_IDS_OR_PATHS


def test_every_path_is_shown_by_its_last_part_alone() -> None:
    names = (*PATHS, *HUB_IDS_OR_PATHS)
    values = {name: f"{DISK}/{name}-last" for name in names}
    config = build_config({**values, "evaluate": "true", "compile": "always", "class_word": "dog", "crop": "face"})
    for shown in (public_settings(config), public_settings(config, exclude_defaults=True)):
        assert DISK not in str(shown)
        assert {name: shown[name] for name in names} == {name: f"{name}-last" for name in names}
    plain = public_settings(TrainingConfig())
    assert plain == TrainingConfig().model_dump(mode="json")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mini-sdxl", "mini-sdxl"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("/models/a/base.safetensors", "base.safetensors"),
        ("../up/base", "base"),
        ("~/base", "base"),
        ("here/base", "base"),
    ],
)
def test_names(model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name(model) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot load the folder '/srv/private/clip': no", "cannot load the folder 'clip': no"),
        ("/srv/a.zip: a file (at /root/.cache/x/y.json)", "a.zip: a file (at y.json)"),
        ("sub/a.png: 1/2 and https://host/a/b stay", "sub/a.png: 1/2 and https://host/a/b stay"),
        ("~/photos is prepared", "photos is prepared"),
    ],
)
def test_paths_in_messages(text: str, shown: str) -> None:
    assert hide_paths(text) == shown

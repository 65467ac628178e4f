"""Tests of the sources of base models (embedded, folder, file, hub), and of the errors for other input."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from families.errors import BaseModelError
from families.loading.sources import EMBEDDED_BASES, find_base_model
from families.registry import load_base_model


def test_the_four_kinds(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "base.safetensors").write_bytes(b"x")
    for name in EMBEDDED_BASES:
        assert find_base_model(name).kind == "folder" and Path(find_base_model(name).location).name == name
    assert find_base_model(str(tmp_path)).kind == "folder"
    assert find_base_model(str(tmp_path / "base.safetensors")).kind == "file"
    assert find_base_model("stabilityai/stable-diffusion-xl-base-1.0").kind == "hub"


@pytest.mark.parametrize("name", ["mini-sdxxl", "/no/where", "a/b/c", "x/y.safetensors", "../up", "https://x.y/z"])
def test_what_is_none_of_them(name: str) -> None:
    with pytest.raises(
        BaseModelError, match=r"neither an embedded base model \(mini-sdxl, mini-flow\), nor an existing"
    ):
        find_base_model(name)


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(BaseModelError, match="Pickled checkpoints .* are refused"):
        find_base_model(str(tmp_path / "model.ckpt"))


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"does not contain model_index\.json"):
        find_base_model(str(tmp_path))


def test_models_that_are_trained_otherwise(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLImg2ImgPipeline"}))
    with pytest.raises(BaseModelError, match="is SDXL's refiner, .* Train on the text-to-image model"):
        load_base_model(str(tmp_path), torch.float32)


def test_a_family_that_is_not_supported(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableCascadePipeline"}))
    with pytest.raises(
        BaseModelError, match="is a StableCascadePipeline; supported are .*FluxPipeline, .*StableDiffusion3Pipeline"
    ):
        load_base_model(str(tmp_path), torch.float32)


def test_the_family_of_a_hub_model_is_read_from_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"_class_name": "StableCascadePipeline"}))
    asked: list[tuple[str, ...]] = []

    def download(*names: str, revision: str | None) -> str:
        asked.append(names)
        return str(index)

    monkeypatch.setattr("families.loading.sources.require_hub", lambda *names, **more: None)
    monkeypatch.setattr("families.loading.sources.hf_hub_download", download)
    with pytest.raises(BaseModelError, match="someone/cascade is a StableCascadePipeline; supported are"):
        load_base_model("someone/cascade", torch.float32)
    assert asked == [("someone/cascade", "model_index.json")]


def test_a_hub_model_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: str, revision: str | None) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("families.loading.sources.require_hub", lambda *names, **more: None)
    monkeypatch.setattr("families.loading.sources.hf_hub_download", refuse)
    with pytest.raises(BaseModelError, match="cannot load 'someone/thing' from the hub: .* Check the spelling"):
        load_base_model("someone/thing", torch.float32)


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"_class_name": 3}'])
def test_an_index_that_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(BaseModelError, match=r"model_index\.json of"):
        load_base_model(str(tmp_path), torch.float32)


def test_a_pipeline_with_missing_parts(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
    )
    with pytest.raises(BaseModelError, match=r"cannot load .*complete StableDiffusionXLPipeline"):
        load_base_model(str(tmp_path), torch.float32)


def test_a_lora_is_no_base(tmp_path: Path) -> None:
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 3)}, tmp_path / "lora.safetensors")
    with pytest.raises(BaseModelError, match=r"is a LoRA, not a base"):
        load_base_model(str(tmp_path / "lora.safetensors"), torch.float32)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(BaseModelError, match="not a readable"):
        load_base_model(str(tmp_path / "text.safetensors"), torch.float32)

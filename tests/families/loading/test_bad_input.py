"""Tests that invalid input for a large base model raises an error of one line before its weights are loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from families.errors import BaseModelError
from families.family import ModelFamily
from families.loading import sources
from families.registry import load_base_model
from fetching.errors import DownloadError
from preprocess.prepare import prepare
from sampler import generation as generation_module
from sampler.generation import Generation
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import png
from tests.tiny_models import TINY_MODELS
from trainer.resolution import base_requirements, resolve

KINDS = ("flux1", "flux2", "qwen_image", "z-image")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: TINY_MODELS[kind](folder / kind) for kind in (*KINDS, "sdxl")}


def skeleton(folder: Path, **options: Any) -> ModelFamily:
    family = load_base_model(str(folder), torch.float32, **options)
    assert next(family.denoiser.parameters()).is_meta
    return family


def require_one_line(error: BaseException) -> None:
    assert "\n" not in str(error) and len(str(error)) < 700


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_of_another_family(
    kind: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictor refuses it before prompts are encoded and the denoiser's weights are loaded."""
    loaded: list[ModelFamily] = []

    def load(*arguments: Any, **given: Any) -> ModelFamily:
        loaded.append(load_base_model(*arguments, **given))
        return loaded[-1]

    monkeypatch.setattr(generation_module, "load_base_model", load)
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(32, 2)},
              tmp_path / "sd15.safetensors")  # fmt: skip
    lora = Artifact.read(tmp_path / "sd15.safetensors")
    with pytest.raises(
        ArtifactError, match="do not exist in this base model.*family on which the LoRA was trained"
    ) as error:
        Generation(lambda line: None).prepare(None, str(folders[kind]), ["a cat"], None, [lora])
    require_one_line(error.value)
    assert next(loaded[0].denoiser.parameters()).is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_a_vae_of_another_family(kind: str, folders: dict[str, Path]) -> None:
    other = folders["sdxl"]
    with pytest.raises(BaseModelError, match="^vae: ") as error:
        load_base_model(str(folders[kind]), torch.float32, vae=str(other))
    require_one_line(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_longer_than_the_encoder_reads(kind: str, folders: dict[str, Path]) -> None:
    family = skeleton(folders[kind])
    most = base_requirements(family, build_config({}).preparation, 0).most_tokens
    for name in ("validation_prompts", "evaluation_prompts", "unrelated_prompts"):
        values = {"num_tokens": 0, "evaluate": "true", name: ["{trigger} " + "w " * (most + 1)]}
        said = rf"{name}, 1: has \d+ tokens; the limit of this base model .* is {most}"
        with pytest.raises(ConfigError, match=said) as error:
            resolve(build_config(values), family)
        require_one_line(error.value)
    assert next(family.denoiser.parameters()).is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_captions_may_have_what_the_encoder_reads(
    kind: str, folders: dict[str, Path], make_zip: Callable[..., Path], tmp_path: Path
) -> None:
    """Captions may have more than CLIP's 77 tokens. Above the encoder's limit, a warning states the limit."""
    family = skeleton(folders[kind])
    config = build_config({"resolution": 64, "captioner": "none", "trigger_word": ""}).preparation
    base = base_requirements(family, config, 0)
    assert base.most_tokens >= 256 and base.count_tokens is not None
    words = {"long": "cat " * 120, "longer": "cat " * (base.most_tokens + 50)}
    files = {f"{name}.txt": text.encode() for name, text in words.items()}
    pictures = {f"{name}.png": png((90, 90), (30 * len(name), 0, 0)) for name in words}
    dataset = prepare([make_zip(files | pictures)], config, tmp_path / "dataset", base)
    warned = {example.source: example.warnings for example in dataset.examples}
    assert base.count_tokens(words["long"]) > 77
    assert not any("tokens" in warning for warning in warned["long.png"])
    assert f"the text encoders read {base.most_tokens}" in " ".join(warned["longer.png"])


def test_a_resolution_without_positions(folders: dict[str, Path]) -> None:
    """Z-Image has a table of positions. The other families compute positions for any size."""
    for kind in KINDS:
        family = skeleton(folders[kind])
        side = family.largest_side
        if side is None:
            continue
        with pytest.raises(ConfigError, match="the largest side for which .* has positions") as error:
            resolve(build_config({"resolution": 2 * side, "num_tokens": 0}), family)
        require_one_line(error.value)
        base = base_requirements(family, build_config({}).preparation, 0)
        assert base.largest_side == side
    assert skeleton(folders["z-image"]).largest_side is not None


def test_a_gated_model_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise DownloadError(
            "black-forest-labs/FLUX.1-dev: the hub answered 401; if the repository is private or gated, set HF_TOKEN"
        )

    monkeypatch.setattr(sources, "require_hub", refused)
    with pytest.raises(
        BaseModelError, match=r"^base_model: .* 401; if the repository is private or gated, set HF_TOKEN"
    ) as error:
        load_base_model("black-forest-labs/FLUX.1-dev", torch.float32)
    require_one_line(error.value)


def test_a_transformer_alone_without_its_parts(folders: dict[str, Path]) -> None:
    for kind in ("flux1", "qwen_image", "z-image"):
        (file,) = (folders[kind] / "transformer").glob("*.safetensors")
        with pytest.raises(BaseModelError, match="^base_config: .* only contains the denoiser of a .*") as error:
            load_base_model(str(file), torch.float32)
        require_one_line(error.value)

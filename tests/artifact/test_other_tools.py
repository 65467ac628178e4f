"""Tests of full-size modules' names against ComfyUI's and A1111's tables, and of files of all kinds in diffusers."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from artifact.artifact import Artifact
from artifact.metadata import ArtifactDescription
from artifact.names.components import DENOISER, Place, components, module_places, place_names
from artifact.placement.placing import PlacedArtifacts
from benchmarks.speed.full_size import FULL_SIZE
from families.family import ModelFamily
from families.sd3 import SD3
from families.sd15 import SD15
from families.sdxl import SDXL
from settings.training import TrainingConfig
from tests.artifact.other_tools import a1111_unet, clip_names, comfyui_sd3, comfyui_unet
from tests.families.test_family_files import predict
from tests.fast_part import slow_but
from tests.tiny_models import load_tiny
from tests.trainer.adapters.placing import place_adapter
from tests.trainer.adapters.test_adapters import disturb
from trainer.adapters.targets import denoiser_targets, text_encoder_targets


def full_size(name: str) -> ModelFamily:
    """Return the modules of a base of the published size, without weights."""
    family: Any = {"sd15": SD15, "sdxl": SDXL, "sd3": SD3}[name]
    with torch.device("meta"):
        pipeline = FULL_SIZE["sd35" if name == "sd3" else name]()
    denoiser = pipeline.transformer if name == "sd3" else pipeline.unet
    encoders = [pipeline.text_encoder, *([] if name == "sd15" else [pipeline.text_encoder_2])]
    facts = {fact: getattr(family, fact) for fact in ("name", "adapter_modules", "layer_naming")}
    idle = (f"transformer_blocks.{denoiser.config.num_layers - 1}.attn.add_q_proj",) if name == "sd3" else ()
    base = SimpleNamespace(**facts, denoiser=denoiser, text_encoders=encoders, idle_modules=idle)
    return cast(ModelFamily, base)


@pytest.fixture(scope="module", params=["sd15", "sdxl", "sd3"])
def full(request: pytest.FixtureRequest) -> ModelFamily:
    return full_size(request.param)


def test_every_name_of_the_denoiser_is_in_their_tables(full: ModelFamily) -> None:
    """This includes the norms, which full fine-tuning writes. A1111's table maps each name to the same module."""
    names = {place.path: name for place, name in place_names(full).items() if place.component == DENOISER}
    config = full.denoiser.config
    assert len(set(names.values())) == len(names) > 500 - 300 * (full.name != "sdxl")
    if full.name == "sd3":
        assert set(names.values()) <= comfyui_sd3(config)
        return
    assert set(names.values()) <= comfyui_unet(config)
    table = a1111_unet(config, full.name)
    assert {name: path for path, name in names.items()} == {name: table.get(name) for name in names.values()}


def test_names_that_other_tools_write_are_read(full: ModelFamily) -> None:
    """These are Stability's and diffusers' block names in kohya's form, and for SD3 peft's dotted names."""
    places, config = module_places(full), full.denoiser.config
    paths = {path for path, _ in full.denoiser.named_modules()}
    if full.name == "sd3":
        written = {name: name.removeprefix("transformer.") for name in comfyui_sd3(config)}
    else:
        pairs = [(a1111_unet(config, family), family) for family in ("sdxl", "sd15")]
        written = {
            name: path for table, family in pairs if family in (full.name, "sd15") for name, path in table.items()
        }
    here = {name: path for name, path in written.items() if path in paths}
    assert len(here) > 250
    assert {name: places.get(name) for name in here} == {name: Place(DENOISER, path) for name, path in here.items()}


def test_names_of_text_encoders_are_in_their_tables(full: ModelFamily) -> None:
    names, places = place_names(full), module_places(full)
    for number, encoder in enumerate(full.text_encoders, start=1):
        component = list(components(full))[number]
        table = clip_names(full.name, number, encoder.config.num_hidden_layers)
        written = {names[Place(component, path)] for path in text_encoder_targets(encoder)}
        assert len(written) == 4 * encoder.config.num_hidden_layers and written <= table
        assert {places[name].component for name in table} == {component}


@pytest.mark.parametrize(("name", "unet", "text"), [("sd15", 192, (72,)), ("sdxl", 722, (72, 192))])
def test_as_many_layers_as_kohya_announces(name: str, unet: int, text: tuple[int, ...]) -> None:
    """kohya logs "create LoRA for U-Net: 722 modules" for SDXL, with attention, feed-forward and projections."""
    family = full_size(name)
    paths = denoiser_targets(family, TrainingConfig(lora_targets="attention+feed-forward"))
    assert len(paths) == unet
    found = tuple(len(clip_names(name, 1, encoder.config.num_hidden_layers)) for encoder in family.text_encoders)
    assert found == text


def write(family: ModelFamily, settings: Mapping[str, Any], folder: Path) -> torch.Tensor:
    """Write a randomly changed adapter to weights.safetensors, and return the prediction with our loader."""
    ranks = {"full": {}, "oft": {"rank": 4}}.get(settings["adapter"], {"rank": 4, "alpha": 2.0})
    adapter = place_adapter(family, TrainingConfig(**ranks, **settings))
    disturb(adapter)
    layers = adapter.layers()
    adapter.remove()
    description = ArtifactDescription(family.name, "tiny", "", family.noise_process.prediction_type, {}, 1)
    path = folder / "weights.safetensors"
    Artifact(layers, {}, description).write(
        path, "fp32", architecture=family.architecture, base_model_version=family.base_model_version
    )
    placed = PlacedArtifacts(family, [Artifact.read(path)])
    try:
        return predict(family)
    finally:
        placed.remove()


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "rslora", "train_text_encoder": True},
        {"adapter": "lora", "lora_target_regex": ".*"},
    ],
    ids=["rslora and text encoders", "every layer"],
)
@pytest.mark.parametrize("kind", slow_but(["sd15", "flux1"], ["sd15", "sdxl", "sd3", "flux1", "flux2", "z-image"]))
def test_diffusers_takes_every_layer_and_gives_the_same_prediction(
    kind: str, settings: Mapping[str, Any], tmp_path: Path
) -> None:
    family = load_tiny(kind, tmp_path / "base")
    if not family.text_encoders:
        settings = {**settings, "train_text_encoder": False}
    bare, ours = predict(family), write(family, settings, tmp_path)
    family.pipeline().load_lora_weights(str(tmp_path), weight_name="weights.safetensors")
    layers = Artifact.read(tmp_path / "weights.safetensors").layers
    taken = [name for part in components(family).values() for name, _ in part.named_parameters() if "lora_A." in name]
    assert len(taken) == len(layers)
    assert (predict(family) - ours).norm() < 1e-3 * (ours - bare).norm()


def test_diffusers_opens_dora_in_pefts_names(tmp_path: Path) -> None:
    family = load_tiny("sd3", tmp_path / "base")
    bare, ours = predict(family), write(family, {"adapter": "dora"}, tmp_path)
    family.pipeline().load_lora_weights(str(tmp_path), weight_name="weights.safetensors")
    assert (predict(family) - ours).norm() < 1e-3 * (ours - bare).norm()


def test_what_diffusers_cannot_open(tmp_path: Path) -> None:
    """docs/artifact.md names these limits of diffusers. If one of them no longer exists, the page must be changed."""
    family = load_tiny("sd15", tmp_path / "base")
    for kind in ("loha", "lokr", "oft"):
        write(family, {"adapter": kind}, tmp_path)
        with pytest.raises(ValueError, match="have not been correctly renamed"):
            family.pipeline().load_lora_weights(str(tmp_path), weight_name="weights.safetensors")
    bare, ours = predict(family), write(family, {"adapter": "dora"}, tmp_path)
    family.pipeline().load_lora_weights(str(tmp_path), weight_name="weights.safetensors")  # warns, drops dora_scale
    assert (predict(family) - ours).norm() > 0.1 * (ours - bare).norm()

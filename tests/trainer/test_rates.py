"""Tests of default learning rates: the usual ones for base models of full size, and larger ones for narrow base models.
Given rates are kept."""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel

from benchmarks.speed.full_size import CLIP_G, CLIP_L, SD15_UNET, SD35_MEDIUM, SDXL_UNET
from families.family import FamilyDefaults, ModelFamily
from families.sd3 import SD3
from families.sd15 import SD15
from families.sdxl import SDXL
from settings.training import build_config
from trainer.open_settings import open_settings, token_notes

FULL_SIZE: dict[str, tuple[Any, Any, Mapping[str, Any], list[Mapping[str, Any]]]] = {
    "SD1.5": (SD15, UNet2DConditionModel, SD15_UNET, [CLIP_L]),
    "SDXL": (SDXL, UNet2DConditionModel, SDXL_UNET, [CLIP_L, CLIP_G]),
    "SD3.5": (SD3, SD3Transformer2DModel, SD35_MEDIUM, [CLIP_L, CLIP_G]),
}


@cache
def full_size(base: str) -> ModelFamily:
    """The parts of a full-size base model that rates are computed from, on the meta device, where weights take no
    memory."""
    family, denoiser, layout, encoders = FULL_SIZE[base]
    with torch.device("meta"):
        model = denoiser(**layout)
    readers = [SimpleNamespace(config=SimpleNamespace(hidden_size=each["hidden_size"])) for each in encoders]
    return cast(
        ModelFamily,
        SimpleNamespace(
            name=base,
            denoiser=model,
            text_encoders=readers,
            adapter_modules=family.adapter_modules,
            defaults=family.defaults,
        ),
    )


def rates(values: dict[str, Any], family: ModelFamily) -> dict[str, Any]:
    config = build_config(values)
    return open_settings(config.given, config.optimization, True, family)


def test_rates_of_an_adapter_that_is_not_there_are_said() -> None:
    values = {"learning_rate": 1e-3, "optimizer": "lion", "weight_decay": 1e-2}
    notes = list(token_notes(build_config({**values, "adapter": "none"})))
    assert [note.split()[0] for note in notes] == ["learning_rate", "optimizer"] and "token_learning_rate" in notes[0]
    assert not list(token_notes(build_config(values)))


@pytest.mark.parametrize("base", FULL_SIZE)
def test_at_full_size_the_fields_rates_come_out(base: str) -> None:
    found = rates({"train_text_encoder": True}, full_size(base))
    assert 1e-4 <= found["learning_rate"] <= 2e-4
    assert found["token_learning_rate"] == 1e-3
    assert found["text_encoder_learning_rate"] == 5e-5


def test_a_narrow_base_learns_faster_and_a_given_rate_is_kept(base: ModelFamily) -> None:
    narrow, given = rates({}, base), rates({"learning_rate": 1e-4, "token_learning_rate": 1e-3}, base)
    assert narrow["learning_rate"] == pytest.approx(1e-4 * 1280 / 80)
    assert narrow["token_learning_rate"] == pytest.approx(1e-3 * 768 / 80)
    assert (given["learning_rate"], given["token_learning_rate"]) == (1e-4, 1e-3)


def test_an_adapter_that_learns_the_word_alone_has_a_higher_rate() -> None:
    no_words = {"text_encoders": [], "defaults": FamilyDefaults(num_tokens=0, fewest_tokens=0)}
    family = cast(ModelFamily, SimpleNamespace(**vars(full_size("SD3.5")) | no_words))
    assert rates({}, family)["learning_rate"] == pytest.approx(4e-4, rel=0.1)


@pytest.mark.parametrize(("optimizer", "rate"), [("lion", 2e-5), ("came", 2.5e-5), ("prodigy", 1.0), ("adamw", 1e-4)])
def test_optimizers_have_rates_of_their_own(optimizer: str, rate: float) -> None:
    found = rates({"optimizer": optimizer, "token_optimizer": optimizer}, full_size("SDXL"))
    assert found["learning_rate"] == pytest.approx(rate)
    assert found["token_learning_rate"] == pytest.approx(rate if optimizer == "prodigy" else 10 * rate)

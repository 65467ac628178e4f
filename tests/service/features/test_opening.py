"""Tests that the base model for encoding has no denoiser's weights, and gives the same latents as the whole base."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from families.registry import load_base_model
from preprocess.crops.crop import Crop
from preprocess.dataset import View
from service.features.opening import open_base
from settings.preparation import DataConfig
from settings.record import build_settings
from settings.sections.base_model import BaseModelSection
from tests.fast_part import slow_but
from tests.preprocess.uploads.ugly_uploads.making import picture
from tests.tiny_cascade import write_cascade
from tests.tiny_models import write_flux1, write_sd3, write_sd15, write_sdxl
from trainer.data.latent_cache import encode_view

SIDE = 128
WRITERS = (write_sdxl, write_sd15, write_sd3, write_flux1, write_cascade)


@pytest.mark.parametrize("write", slow_but(WRITERS[:2], WRITERS))
def test_the_denoiser_stays_out_and_the_latents_are_the_same(write: Callable[[Path], Path], tmp_path: Path) -> None:
    base = str(write(tmp_path / "base"))
    section = build_settings(BaseModelSection, {"base_model": base})
    data = build_settings(DataConfig, {"class_word": "robot", "resolution": SIDE})
    family, requirements = open_base(section, torch.float32, False, data, 2)
    assert all(weight.is_meta for weight in family.denoiser.parameters())
    assert requirements.count_tokens is not None and requirements.count_tokens("a TOK robot") > 2
    (tmp_path / "a.png").write_bytes(picture(seed=1, size=(SIDE, SIDE)))
    view = View("a.png", Crop((SIDE, SIDE), (SIDE, SIDE), (0, 0), (SIDE, SIDE)), None, False)
    whole = load_base_model(base, torch.float32).to(torch.device("cpu"))
    assert torch.equal(encode_view(tmp_path, view, family).moments, encode_view(tmp_path, view, whole).moments)

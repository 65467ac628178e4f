"""Tests of the shipped embedded base: its size, evaluator and card, and whether its images match held-out captions."""

import json
import random
from functools import cache

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from families.loading.sources import EMBEDDED_BASE_FOLDER
from tests.conftest import PROJECT
from tools.mini_base import evaluate_vae
from tools.mini_base.evaluate import Judge, held_out_scenes, sample
from tools.mini_base.evaluate_vae import Exactness
from tools.mini_base.model_card import markdown
from tools.mini_base.scenes import draw, full_caption

# The values of the card's tables, minus a margin for fewer captions and images. Some of the aims are higher.
READ = {"background": 0.97, "colour": 0.8, "shape": 0.86, "place": 0.98}
DRAWN = {"background": 0.92, "colour": 0.68, "shape": 0.82, "place": 0.95}
LEAST_OF_DRAWINGS, LEAST_OF_PHOTOGRAPHS = 24.5, 29.0


@cache
def pipeline() -> StableDiffusionXLPipeline:
    loaded = StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE_FOLDER, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_fits_into_sixteen_megabytes_with_the_examples() -> None:
    folders = (EMBEDDED_BASE_FOLDER, PROJECT / "assets" / "examples")
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 16_000_000


def test_the_layout_is_sdxls() -> None:
    config = pipeline().unet.config
    assert config.addition_embed_type == "text_time"
    assert config.down_block_types == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert pipeline().tokenizer_2.pad_token == "!"
    assert pipeline().scheduler.config.prediction_type == "epsilon"
    assert pipeline().config.force_zeros_for_empty_prompt


def test_the_card_states_what_was_measured() -> None:
    measured = json.loads((EMBEDDED_BASE_FOLDER / "evaluation.json").read_text())
    card = (EMBEDDED_BASE_FOLDER / "README.md").read_text(encoding="utf-8")
    restored = {kind: Exactness(**row) for kind, row in measured["restored"].items()}
    assert markdown(measured["captions"]) in card
    assert evaluate_vae.markdown(restored) in card


@pytest.mark.slow
def test_the_evaluator_reads_real_drawings() -> None:
    scenes = held_out_scenes(256)
    drawings = [draw(scene, random.Random(index)) for index, scene in enumerate(scenes)]
    shares = Judge(pipeline(), EMBEDDED_BASE_FOLDER / "image_encoder").accuracy(drawings, scenes)
    assert all(shares[name] >= least for name, least in READ.items()), shares


@pytest.mark.slow
def test_the_base_draws_what_held_out_captions_say() -> None:
    scenes = held_out_scenes(96)
    samples = sample(pipeline(), [full_caption(scene) for scene in scenes])
    shares = Judge(pipeline(), EMBEDDED_BASE_FOLDER / "image_encoder").accuracy(samples, scenes)
    assert all(shares[name] >= least for name, least in DRAWN.items()), shares


@pytest.mark.slow
def test_the_vae_restores_pictures_that_it_never_saw() -> None:
    kinds = evaluate_vae.unseen_pictures(24)
    for kind, row in evaluate_vae.measure(pipeline().vae, kinds).items():
        photographs = kind.startswith("photographs")
        assert row.mean >= (LEAST_OF_PHOTOGRAPHS if photographs else LEAST_OF_DRAWINGS), (kind, row)

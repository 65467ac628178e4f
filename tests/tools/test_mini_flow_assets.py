"""Tests of the shipped mini-flow: its size, layout and card, and whether its images show what held-out captions say."""

import json

import pytest
from diffusers import ZImagePipeline

from families.loading.sources import EMBEDDED_BASE_FOLDER, EMBEDDED_BASES
from tools.mini_base.evaluate import held_out_scenes, sample
from tools.mini_base.model_card import markdown
from tools.mini_base.scenes import full_caption
from tools.mini_flow.evaluate import GUIDANCE, STEPS, judge, open_pipeline
from tools.mini_flow.model_card import AIMS

FOLDER = EMBEDDED_BASES["mini-flow"]


def test_it_fits_into_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 12_000_000


def test_the_layout_is_z_images_with_mini_sdxls_vae() -> None:
    pipeline: ZImagePipeline = open_pipeline(FOLDER)
    assert type(pipeline.text_encoder).__name__ == "Qwen3ForCausalLM"
    assert type(pipeline.tokenizer).__name__ == "Qwen2Tokenizer"
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert (FOLDER / weights).read_bytes() == (EMBEDDED_BASE_FOLDER / weights).read_bytes()


def test_the_card_states_what_was_measured() -> None:
    measured = json.loads((FOLDER / "evaluation.json").read_text())
    assert markdown(measured["captions"], AIMS) in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_draws_what_held_out_captions_say() -> None:
    scenes = held_out_scenes(32)
    samples = sample(open_pipeline(FOLDER), [full_caption(scene) for scene in scenes], STEPS, GUIDANCE)
    shares = judge().accuracy(samples, scenes)
    assert all(shares[name] >= aim - 0.08 for name, aim in AIMS.items()), shares  # the card has more captions

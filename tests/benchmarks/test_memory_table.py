"""Tests of the table of bases and GPUs: denoisers run without the other parts, and cells name the chosen settings."""

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, QwenImageTransformer2DModel

from benchmarks.record import RESULTS, markdown
from benchmarks.speed import memory_plan
from benchmarks.speed.memory_plan import FULL_SIZE, FullSize, card_row, predict
from families.flux1 import Flux1
from families.flux2 import DEV_PIPELINE, Flux2
from families.qwen_image import QwenImage
from tests.conftest import PROJECT
from trainer.memory_plan import Choice

HEADS: dict[str, Any] = {"attention_head_dim": 16, "num_attention_heads": 2}
FLUX2: dict[str, Any] = HEADS | {
    "in_channels": 32, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 48,
    "timestep_guidance_channels": 32, "axes_dims_rope": (4, 4, 4, 4),
}  # fmt: skip
FLUX1: dict[str, Any] = HEADS | {
    "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": 48, "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}  # fmt: skip
QWEN: dict[str, Any] = HEADS | {
    "in_channels": 16, "out_channels": 4, "num_layers": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
TINY = {
    "flux1": FullSize(Flux1, lambda: FluxTransformer2DModel(guidance_embeds=True, **FLUX1), 4, 8, (8, 48), 16),
    "klein": FullSize(Flux2, lambda: Flux2Transformer2DModel(guidance_embeds=False, **FLUX2), 32, 16, (8, 48)),
    "dev": FullSize(Flux2, lambda: Flux2Transformer2DModel(**FLUX2), 32, 16, (8, 48), pipeline=DEV_PIPELINE),
    "qwen": FullSize(QwenImage, lambda: QwenImageTransformer2DModel(**QWEN), 4, 8, (8, 16)),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, base in TINY.items():
        monkeypatch.setitem(FULL_SIZE, name, base)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_step_is_counted_without_the_other_parts(name: str) -> None:
    found = predict(name, 64, 4, Choice(1, True))
    assert 0 < found.step.weights < found.step.peak == found.peak


@pytest.mark.slow
def test_a_row_says_how_a_base_is_trained_on_each_card(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = predict("flux1", 1024, 4, Choice(1, False)).peak
    checkpointed = predict("flux1", 1024, 4, Choice(1, True)).peak
    assert checkpointed < plain
    monkeypatch.setattr(memory_plan, "CARDS", (1, int(checkpointed / 0.85) + 1, int(plain / 0.85) + 1))
    monkeypatch.setattr(memory_plan, "GB", 1)
    cells = list(card_row("flux1", 4).values())
    assert cells == ["flux1", "1024", "no", "bf16, checkpointing", "bf16"]


def test_the_table_in_the_documents_is_the_one_that_was_made() -> None:
    rows = json.loads((RESULTS / "memory_table.json").read_text(encoding="utf-8"))["rows"]
    assert markdown(rows) in Path(PROJECT, "docs", "performance.md").read_text(encoding="utf-8")

"""Tests that every optional method learns: the denoising loss at fixed noise, measured without the method, falls below
the base model's."""

from pathlib import Path
from typing import Any

import pytest

from families.family import ModelFamily
from tests.trainer.test_training import CONFIG, placed
from trainer.data.latent_cache import cache_examples
from trainer.validation.held_out_loss import HeldOutLoss

METHODS: dict[str, dict[str, Any]] = {
    "dco, pissa": {"loss_type": "dco", "lora_init": "pissa"},
    "dream, olora, muon": {"dream": 1.0, "lora_init": "olora", "optimizer": "muon", "learning_rate": 2e-3},
    "p2, eva, came": {"loss_weighting": "p2", "lora_init": "eva", "optimizer": "came"},
    "t-lora, lora+, orthogonal, differential output preservation": {
        "adapter": "t-lora", "lora_plus_ratio": 4.0, "lora_init": "orthogonal", "prior_matching_weight": 1.0,
        "prior_matching_on": "captions"},
    "prompt alignment, lion": {"target_prompts": ("a photo of TOK on a red background",),
                               "prompt_alignment_weight": 0.3, "prompt_alignment_interval": 2,
                               "optimizer": "lion", "learning_rate": 5e-4},
    "perfusion": {"adapter": "perfusion", "rank": 16, "learning_rate": 0.3},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_on_the_embedded_base(method: str, base: ModelFamily, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_train_steps": 25, "lr_scheduler": "constant", **METHODS[method]})
    for training in placed(base, config, tmp_path):
        examples = list(cache_examples(training.dataset, base))[:4]
        score = HeldOutLoss(base, examples, training.triggers, 0.1, training.trainer.accelerator)
        assert score()["score"] == 1
        list(training.trainer.steps())
        assert score()["score"] < 0.97

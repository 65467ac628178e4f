"""The options that benchmarks/learning/ablation.py compares: each is the reference run with a few settings changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REFERENCE: Mapping[str, Any] = {
    "base_model": "mini-sdxl",
    "trigger_word": "TOK",
    "class_word": "figure",
    "max_train_steps": 60,
    "train_batch_size": 4,
    "rank": 8,
    "learning_rate": 2e-3,
    "token_learning_rate": 2e-2,
    "num_validation_images": 0,
    "evaluate": "false",
}
"""The trainer's defaults, with rates for so small a base, and a short run."""


@dataclass(frozen=True)
class Variant:
    """A variant with `changes` to the reference."""

    group: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the variant."""
        return {**REFERENCE, **self.changes}


def _group(group: str, options: Mapping[str, Mapping[str, Any]]) -> list[Variant]:
    return [Variant(group, name, changes) for name, changes in options.items()]


def _values(setting: str, *values: object) -> dict[str, dict[str, Any]]:
    return {f"{setting}: {value}": {setting: value} for value in values}


VARIANTS: tuple[Variant, ...] = (
    Variant("reference", "lora on attention, min-SNR, AdamW, cosine"),
    *_group("adapter", {
        **_values("adapter", "rslora", "dora", "loha", "lokr"),
        "adapter: full, rate 2e-4": {"adapter": "full", "learning_rate": 2e-4, "rank": 16},
        "adapter: none (tokens only)": {"adapter": "none", "rank": 16},
        **_values("rank", 16),
        **_values("train_text_encoder", True),
        **_values("adapter_dropout", 0.1),
    }),
    *_group("layers", _values(
        "lora_targets", "attention+feed-forward", "attention+feed-forward+convolutions", "cross-attention-kv",
    )),
    *_group("tokens", {
        **_values("token_init", "random", "images"),
        "token_init: vocabulary (circle, square, star)": {
            "token_init": "vocabulary", "token_init_pattern": "^(circle|square|star)</w>",
        },
        **_values("num_tokens", 1),
        **_values("token_learning_rate", 0),
        **_values("tokens_first", 0.15),
        **_values("tokens_until", 0.5),
        **_values("token_retraction", 0.1),
        **_values("token_norm_weight", 0.01),
        **_values("token_covariance_weight", 0.001),
    }),
    *_group("loss", {
        **_values("loss_weighting", "uniform", "soft_min_snr", "debiased"),
        **_values("loss_type", "huber"),
        **_values("prior_matching_weight", 10.0),
        "prior_matching_weight: 3, every third step": {"prior_matching_weight": 3.0, "prior_matching_interval": 3},
        **_values("num_class_images", 16),
        **_values("adapter_l1_weight", 0.03),
    }),
    *_group("noise and captions", {
        **_values("noise_offset", 0.05),
        **_values("input_perturbation", 0.1),
        **_values("conditioning_noise", 0.1),
        **_values("timestep_bias", 1.0),
        **_values("caption_dropout", 0.0),
    }),
    *_group("optimizer", {
        "optimizer: prodigy": {"optimizer": "prodigy", "learning_rate": None},
        **_values("optimizer", "adafactor", "adamw_schedule_free"),
        "optimizer: prodigy_schedule_free": {"optimizer": "prodigy_schedule_free", "learning_rate": None},
        **_values("ema_decay", 0.9),
    }),
    *_group("schedule", {
        **_values("lr_scheduler", "constant", "linear", "polynomial"),
        "lr_scheduler: cosine_with_restarts, twice": {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2},
        **_values("lr_warmup_steps", 0),
    }),
)  # fmt: skip

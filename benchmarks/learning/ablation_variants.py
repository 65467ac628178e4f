"""The options that benchmarks/learning/ablation.py compares: each is the reference run with a few settings changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REFERENCE: Mapping[str, Any] = {
    "base_model": "mini-sdxl",
    "trigger_word": "TOK",
    "max_train_steps": 200,
    "train_batch_size": 4,
    "num_validation_images": 0,
    "evaluate": "false",
}
"""The trainer's defaults, and a short run. The class word is the concept's."""


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


NO_PRIOR: Mapping[str, Any] = {"prior_matching_weight": 0.0}
TRIGGER_DROPOUT: Mapping[str, Any] = {"trigger_only_dropout": 0.3}
"""The default beside prior matching; options that have none get it, so that captions are alike."""
VARIANTS: tuple[Variant, ...] = (
    Variant("reference", "the defaults"),
    *_group("adapter", {
        "adapter: rslora, rank 64": {"adapter": "rslora", "rank": 64},  # at the default rank 16 it equals lora
        **_values("adapter", "dora", "loha", "lokr", "oft", "t-lora"),
        "adapter: full, rate 2e-4": {"adapter": "full", "learning_rate": 2e-4, **TRIGGER_DROPOUT},
        "adapter: none (tokens only)": {"adapter": "none", **TRIGGER_DROPOUT},
        "adapter: perfusion, rate 0.3": {
            "adapter": "perfusion", "learning_rate": 0.3, "lr_scheduler": "constant", "max_grad_norm": 10.0,
            **TRIGGER_DROPOUT,
        },
        **_values("rank", 4, 64),
        **_values("lora_init", "gaussian", "orthogonal", "pissa", "olora", "eva"),
        **_values("lora_plus_ratio", 4.0),
        **_values("train_text_encoder", True),
        **_values("adapter_dropout", 0.1),
    }),
    *_group("layers", _values(
        "lora_targets", "attention", "attention+feed-forward", "cross-attention-kv",
    )),
    *_group("tokens", {
        **_values("token_init", "random", "images"),
        **_values("num_tokens", 1),
        **_values("token_learning_rate", 0),
        **_values("tokens_first", 0.15),
        **_values("tokens_until", 0.5),
        **_values("token_retraction", 0.1),
        **_values("token_norm_weight", 0.01),
        **_values("token_covariance_weight", 0.001),
    }),
    *_group("loss", {
        **_values("loss_weighting", "uniform", "min_snr", "soft_min_snr", "p2", "edm", "adaptive"),
        **_values("loss_type", "huber", "dco"),
        "no prior matching, trigger-only captions": {**NO_PRIOR, **TRIGGER_DROPOUT},
        "no prior matching": NO_PRIOR,
        **_values("prior_matching_on", "captions", "everything"),
        **_values("num_class_images", 16),
        **_values("adapter_l1_weight", 0.03),
    }),
    *_group("noise and captions", {
        **_values("noise_offset", 0.05),
        **_values("multires_noise_iterations", 6),
        **_values("input_perturbation", 0.1),
        **_values("dream", 1.0),
        **_values("conditioning_noise", 0.1),
        **_values("timestep_bias", 0.0, 1.0),
        **_values("trigger_only_dropout", 0.0),
        "mask: files (what is not ground)": {"mask": "files"},
        "captions: the trigger word alone": {"trigger_only_dropout": 1.0, "caption_dropout": 0.0},
    }),
    *_group("optimizer", {
        "optimizer: prodigy": {"optimizer": "prodigy", "learning_rate": None},
        **_values("optimizer", "lion", "came", "muon", "adafactor"),
        "optimizer: came, adamw's rate": {"optimizer": "came", "learning_rate": 1.6e-3},
        "optimizer: adamw_schedule_free": {"optimizer": "adamw_schedule_free", "lr_scheduler": "constant"},
        "optimizer: prodigy_schedule_free": {
            "optimizer": "prodigy_schedule_free", "learning_rate": None, "lr_scheduler": "constant",
        },
        **_values("ema_decay", 0.9),
    }),
    *_group("schedule", {
        **_values("lr_scheduler", "constant", "linear", "warmup_stable_decay"),
        "lr_scheduler: polynomial, power 2": {"lr_scheduler": "polynomial", "lr_power": 2.0},
        "lr_scheduler: cosine_with_restarts, twice": {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2},
        **_values("lr_warmup_steps", 0),
    }),
)  # fmt: skip

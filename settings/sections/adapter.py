"""The adapter and the layers that it is trained on."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Limited, Open, Operator
from settings.record import Settings

AdapterName = Literal[
    "lora", "rslora", "dora", "loha", "lokr", "oft", "t-lora", "full", "none", "controlnet", "perfusion"
]
LoraTargets = Literal[
    "attention",
    "attention+feed-forward",
    "attention+feed-forward+convolutions",
    "all-linear",
    "cross-attention-kv",
    "b-lora",
    "b-lora-content",
    "b-lora-style",
]
LOW_RANK: tuple[AdapterName, ...] = ("lora", "rslora", "dora", "loha", "lokr", "oft", "t-lora")
LORAS: tuple[AdapterName, ...] = ("lora", "rslora", "dora", "t-lora")
"""Adapters with one up and one down projection."""
PARTS_OF_WEIGHTS = ("pissa", "olora")
"""Values of lora_init whose initial adapter is a part of the base weight."""
RSLORA_ALPHA = 4.0
"""Default alpha of rsLoRA: alpha / √rank is 1 at rank 16, as for the other LoRAs, and 1/2 at rank 64."""
TEXT_ENCODER_RATE = 5e-5
CONTROLNET_RATE = 1e-5
"""Default as in diffusers' guide, where batches have 16 images and more."""
PERFUSION_RATE = 0.03
"""Default of the paper."""


class AdapterSection(Settings):
    """The adapter on the denoiser, and on the text encoders."""

    adapter: Open[AdapterName] = Field(
        "lora",
        description="lora, rslora (scale alpha / √rank), dora (trained magnitudes), loha, lokr (small files), oft "
        "(rotations of inputs, in blocks of rank × rank), t-lora (fewer components at high noise, for few images), "
        "full (all weights of the UNet or transformer), none (tokens only), controlnet (a separate network for the "
        "conditioning images of control), or perfusion (cross-attention values for the trigger word, with the keys of "
        "its class_word: a tiny file)",
    )
    rank: Limited[int] = Field(16, ge=1, le=1024, description="Rank of the adapter")
    alpha: Open[float | None] = Field(
        None, gt=0, description="The adapter is scaled by alpha / rank; by default alpha = rank, and 4 with rslora"
    )
    adapter_dropout: Open[float] = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the adapter's inputs set to zero in a step (lora, rslora, dora, t-lora)",
    )
    lora_init: Open[Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva"]] = Field(
        "kaiming",
        description="Initial weights of lora, rslora, dora and t-lora: a random down projection and an up projection "
        "of zeros; orthogonal: both random with a product of zero, so that both are trained from the start (even "
        "ranks); pissa and olora (lora, rslora): a part of the base weight; eva: the main directions of the layers' "
        "inputs",
    )
    t_lora_min_rank: Open[int | None] = Field(
        None,
        ge=1,
        le=1024,
        description="With adapter t-lora: number of components used at pure noise; by default half of rank",
    )
    lora_targets: Open[LoraTargets] = Field(
        "attention",
        description="Layers of the UNet or transformer with an adapter; by default attention, and all kinds on base "
        "models narrower than 160 channels. all-linear: all linear layers of the blocks; cross-attention-kv: layers "
        "that project the prompt; b-lora…: SDXL's blocks for content and style, trained on one image",
    )
    lora_target_regex: Open[str | None] = Field(
        None,
        min_length=1,
        max_length=500,
        description="Regular expression for the whole path of the layers, instead of lora_targets",
    )
    init_weights: Operator[Path | None] = Field(
        None,
        description="Start from this LoRA, trained here or by another tool: its layers (exactly if the adapter can "
        "represent them, otherwise approximated by singular values) and its tokens; with controlnet: from this "
        "ControlNet",
    )
    controlnet_blocks: Open[tuple[int, ...]] = Field(
        (),
        max_length=64,
        description="With controlnet on Stable Cascade: indices of the residual blocks to whose input it is added, in "
        "ascending order; by default those that ComfyUI assumes, 0, 4, 8, 12, 51, 55, 59, 63",
    )
    controlnet_bottleneck: Open[Literal["effnet", "large"]] = Field(
        "effnet",
        description="With controlnet on Stable Cascade: network for the conditioning image: a copy of the image "
        "encoder (effnet), or a large network for that encoder's latents (large, for control super_resolution or "
        "files)",
    )
    train_text_encoder: Open[bool] = Field(
        False,
        description="Also train an adapter on the text encoders' attention; with full: train all their weights except "
        "the embeddings",
    )
    text_encoder_rank: Limited[int | None] = Field(
        None, ge=1, le=1024, description="Rank of the text encoders' adapter; by default that of rank"
    )
    text_encoder_learning_rate: Open[float | None] = Field(
        None,
        gt=0,
        le=10,
        description="Learning rate of the text encoders; by default 5e-5, with full that of learning_rate, and 1 with "
        "Prodigy",
    )

    @property
    def has_low_rank_adapter(self) -> bool:
        """Whether the adapter has a rank, targets and alpha."""
        return self.adapter in LOW_RANK

    @property
    def has_alpha(self) -> bool:
        """Whether the adapter is scaled by alpha."""
        return self.has_low_rank_adapter and self.adapter != "oft"

    @property
    def trains_base(self) -> bool:
        """Whether the base's own weights are trained."""
        return self.adapter == "full"

    @property
    def is_controlnet(self) -> bool:
        """Whether only a ControlNet is trained."""
        return self.adapter == "controlnet"

    @property
    def is_perfusion(self) -> bool:
        """Whether the cross-attention values of the placeholder tokens are trained, and no weight of the base model."""
        return self.adapter == "perfusion"

    @property
    def resolved_alpha(self) -> float:
        """The alpha of the denoiser's adapter, resolved."""
        if self.alpha is not None:
            return self.alpha
        return RSLORA_ALPHA if self.adapter == "rslora" else float(self.rank)

    @property
    def resolved_t_lora_min_rank(self) -> int:
        """Number of components of a t-lora that are used at every timestep."""
        return self.t_lora_min_rank or max(1, self.rank // 2)

    @model_validator(mode="after")
    def _adapter_rules(self) -> "AdapterSection":
        if not self.has_low_rank_adapter:
            for name in (
                "rank",
                "alpha",
                "adapter_dropout",
                "lora_init",
                "lora_targets",
                "lora_target_regex",
                "text_encoder_rank",
                *(() if self.trains_base else ("train_text_encoder",)),
                *(("init_weights",) if self.is_perfusion else ()),
            ):
                if self.differs(name):
                    raise ValueError(f"{name} has no effect with adapter: {self.adapter}; leave it out, or choose lora")
        if self.lora_target_regex is not None and self.differs("lora_targets"):
            raise ValueError("lora_target_regex replaces lora_targets; leave one of them out")
        if self.adapter == "oft" and self.alpha is not None:
            raise ValueError("alpha has no effect with adapter: oft, which rotates and has no scale; leave it out")
        if self.adapter == "oft" and self.rank < 2:
            raise ValueError("rank: adapter: oft rotates blocks of rank × rank; set at least 2")
        if self.adapter_dropout > 0 and self.has_low_rank_adapter and self.adapter not in LORAS:
            raise ValueError(
                f"adapter_dropout works with lora, rslora, dora and t-lora, not with {self.adapter}; leave it out"
            )
        if self.lora_init != "kaiming" and self.adapter not in LORAS:
            raise ValueError(
                f"lora_init works with lora, rslora, dora and t-lora, not with {self.adapter}; leave it out"
            )
        if self.lora_init != "kaiming" and self.init_weights is not None:
            raise ValueError("lora_init has no effect with init_weights, whose values are used; leave one of them out")
        if self.lora_init in PARTS_OF_WEIGHTS and self.adapter not in ("lora", "rslora"):
            raise ValueError(f"lora_init: {self.lora_init} works with lora and rslora, not with {self.adapter}")
        odd = [f"{rank}" for rank in (self.rank, self.text_encoder_rank) if rank is not None and rank % 2]
        if self.lora_init == "orthogonal" and odd:
            raise ValueError(f"lora_init: orthogonal needs an even rank, and {odd[0]} is odd; set an even one")
        if self.t_lora_min_rank is not None and self.adapter != "t-lora":
            raise ValueError(f"t_lora_min_rank has no effect with adapter: {self.adapter}; set adapter: t-lora")
        if self.resolved_t_lora_min_rank >= self.rank > 1 and self.adapter == "t-lora":
            raise ValueError("t_lora_min_rank must be less than rank; equal to rank it is adapter: lora")
        for name in ("text_encoder_rank", "text_encoder_learning_rate"):
            if getattr(self, name) is not None and not self.train_text_encoder:
                raise ValueError(f"{name} has no effect without train_text_encoder: true")
        return self

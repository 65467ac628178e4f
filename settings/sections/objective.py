"""The loss and its terms."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Limited, Open
from settings.record import Settings


class ObjectiveSection(Settings):
    """The terms of the loss and their weights."""

    loss_type: Open[Literal["mse", "huber", "dco"]] = Field(
        "mse",
        description="mse; huber, which limits the effect of outliers; or dco, which trains each image only until it "
        "is better than the base model: less overfitting, a third more time",
    )
    dco_beta: Open[float] = Field(
        1000.0,
        gt=0,
        le=100_000,
        description="How early loss_type dco stops training an image; larger values stop earlier; usually 1000",
    )
    huber_delta: Open[float] = Field(
        0.1, gt=0, le=1, description="With loss_type huber: errors above this have a linear loss"
    )
    huber_schedule: Open[Literal["constant", "snr"]] = Field(
        "snr", description="snr: huber_delta at pure noise, increasing to 1 (as mse) for clean images"
    )
    loss_weighting: Open[Literal["uniform", "min_snr", "soft_min_snr", "debiased", "p2", "edm", "adaptive"]] = Field(
        "min_snr",
        description="Weight of each timestep; by default debiased for ε, min_snr for v, uniform for flow matching and "
        "EDM models; debiased (ε only) increases the weight of high noise: colours and layout; p2 decreases the "
        "weight of low noise; edm is EDM's weighting, with most weight on high noise (v: uniform); adaptive divides "
        "by the mean error at a similar amount of noise, so that all noise levels count equally",
    )
    p2_gamma: Open[float] = Field(1.0, gt=0, le=4, description="γ of the p2 weighting; 0.5 is weaker")
    min_snr_gamma: Open[float] = Field(5.0, gt=0, description="γ of the min-SNR and soft-min-SNR weightings")
    prior_matching_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight of prior matching, which keeps predictions without the trigger word near those of the "
        "base model; 0: off; by default 1 for low-rank adapters with a trigger word, if no other setting preserves "
        "the base model",
    )
    prior_matching_interval: Open[int] = Field(
        3,
        ge=1,
        le=100,
        description="Compute prior matching every N steps with N times the weight; 3 costs a third of the time",
    )
    prior_matching_on: Open[Literal["everything", "trajectories", "captions"]] = Field(
        "trajectories",
        description="Prompts of prior matching: captions with the class word, the empty prompt and prior_prompts in "
        "turn (everything); the same, with prior_prompts on latents that the base model samples for them, which "
        "preserves more and takes less time (trajectories); or only captions, which is differential output "
        "preservation",
    )
    prior_prompts: Limited[tuple[str, ...]] = Field(
        (),
        description="Prompts whose predictions should not change, in addition to captions with the class word; by "
        "default a list of common prompts, if prior_matching_on is trajectories",
    )
    target_prompts: Limited[tuple[str, ...]] = Field(
        (), description="Prompts with the trigger word for which the LoRA is trained, such as a sketch of TOK in Paris"
    )
    prompt_alignment_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of prompt alignment, which keeps the base model's content for target_prompts; 0: off, "
        "usually 0.3",
    )
    prompt_alignment_interval: Open[int] = Field(
        1, ge=1, le=100, description="Compute prompt alignment every N steps with N times the weight"
    )
    mask_floor: Open[float | None] = Field(
        None, ge=0, le=1, description="Loss weight outside the mask; by default 0.3 for faces, otherwise 0.1"
    )

    zero_terminal_snr: Open[bool] = Field(
        False,
        description="Rescale the noise schedule so that it ends in pure noise, for v-prediction: darker and lighter "
        "images. Always on if the base model's own scheduler does so; loss_weighting is then uniform unless set",
    )

    token_attention_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the loss that keeps cross-attention to the new tokens inside the mask; 0: off, usually "
        "0.1",
    )
    token_norm_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the loss that keeps token norms near the vocabulary's; 0: off, usually 0.01",
    )
    token_covariance_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the loss that keeps tokens within the vocabulary's covariance; 0: off, usually 0.001",
    )
    adapter_l1_weight: Open[float] = Field(
        0.0, ge=0, le=100, description="Weight of the L1 penalty on the adapter; 0: off, usually 0.03"
    )

    @property
    def unused_prior_settings(self) -> tuple[str, ...]:
        """Return one message for each setting of prior matching that is set although prior matching is off."""
        names = ("prior_prompts", "prior_matching_on", "prior_matching_interval")
        return tuple(
            f"{name} has no effect with prior_matching_weight 0; set the weight, or leave {name} out"
            for name in names
            if self.differs(name)
        )

    @model_validator(mode="after")
    def _objective_rules(self) -> "ObjectiveSection":
        off = self.prior_matching_weight == 0 and "prior_matching_weight" in self.model_fields_set
        huber, gamma = self.loss_type == "huber", self.loss_weighting in ("min_snr", "soft_min_snr")
        rules = (
            (not gamma and self.differs("min_snr_gamma"),
             f"min_snr_gamma has no effect with loss_weighting {self.loss_weighting}; leave one out"),
            (self.loss_weighting != "p2" and self.differs("p2_gamma"),
             f"p2_gamma has no effect with loss_weighting {self.loss_weighting}; leave it out, or set p2"),
            (self.loss_weighting == "adaptive" and self.loss_type != "mse",
             f"loss_weighting: adaptive is for loss_type mse, not for {self.loss_type}; set mse, or another weighting"),
            *((off, message) for message in self.unused_prior_settings),
            (self.prior_matching_on == "captions" and self.prior_prompts,
             "prior_prompts has no effect with prior_matching_on: captions; leave one of them out"),
            (bool(self.target_prompts) != (self.prompt_alignment_weight > 0),
             "target_prompts and prompt_alignment_weight go together; set both, or leave both out"),
            (self.differs("prompt_alignment_interval") and self.prompt_alignment_weight == 0,
             "prompt_alignment_interval has no effect with prompt_alignment_weight 0; set it, or leave it out"),
            (self.loss_type != "dco" and self.differs("dco_beta"),
             f"dco_beta has no effect with loss_type {self.loss_type}; set loss_type: dco, or leave it out"),
            (not huber and self.differs("huber_delta"),
             f"huber_delta has no effect with loss_type {self.loss_type}; set loss_type: huber, or leave it out"),
            (not huber and self.differs("huber_schedule"),
             f"huber_schedule has no effect with loss_type {self.loss_type}; set loss_type: huber, or leave it out"),
        )  # fmt: skip
        for broken, message in rules:
            if broken:
                raise ValueError(message)
        return self

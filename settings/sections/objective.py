"""The loss and its terms."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Limited, Open
from settings.record import Settings


class ObjectiveSection(Settings):
    """The terms of the loss, and what they weigh."""

    loss_type: Open[Literal["mse", "huber", "dco"]] = Field(
        "mse",
        description="mse; huber, which limits the effect of outliers; or dco, which learns each image only until it is "
        "better than the base: less overfitting, for a third more time",
    )
    dco_beta: Open[float] = Field(
        1000.0,
        gt=0,
        le=100_000,
        description="How soon loss_type dco has learned an image; larger is sooner; usual 1000",
    )
    huber_delta: Open[float] = Field(
        0.1, gt=0, le=1, description="Errors above this count linearly with loss_type huber"
    )
    huber_schedule: Open[Literal["constant", "snr"]] = Field(
        "snr", description="snr: huber_delta where all is noise, rising to 1 (as mse) where the picture is seen"
    )
    loss_weighting: Open[Literal["uniform", "min_snr", "soft_min_snr", "debiased", "p2", "edm", "adaptive"]] = Field(
        "min_snr",
        description="How much each timestep counts; by default debiased for ε, min_snr for v, uniform for flow "
        "matching and EDM bases; debiased (ε only) stresses high noise: colours and layout; "
        "p2 lets what is barely noised count little; edm is EDM's, which counts high noise most (v: uniform); "
        "adaptive divides by the mean error of like noise, so that all noise counts alike",
    )
    p2_gamma: Open[float] = Field(1.0, gt=0, le=4, description="γ of the p2 weighting; 0.5 is milder")
    min_snr_gamma: Open[float] = Field(5.0, gt=0, description="γ of the min-SNR and soft-min-SNR weightings")
    prior_matching_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=1000,
        description="Prior matching: without the trigger, predictions stay those of the base; 0: off; by default 1 "
        "for the adapters of rank where there is a trigger word and no other way to keep the base",
    )
    prior_matching_interval: Open[int] = Field(
        3,
        ge=1,
        le=100,
        description="Do so every N steps with N times the weight; 3 takes a third of the time",
    )
    prior_matching_on: Open[Literal["everything", "trajectories", "captions"]] = Field(
        "trajectories",
        description="Prompts of prior matching: captions with the class word, the empty prompt and prior_prompts in "
        "turn (everything); the same, with prior_prompts on what the base itself draws for them, which keeps more and "
        "takes less time; or captions alone, which is differential output preservation",
    )
    prior_prompts: Limited[tuple[str, ...]] = Field(
        (),
        description="Prompts whose predictions should not change, in addition to captions with the class word; by "
        "default everyday ones, where prior_matching_on is trajectories",
    )
    target_prompts: Limited[tuple[str, ...]] = Field(
        (), description="Prompts with the trigger word that the training is for, such as a sketch of TOK in Paris"
    )
    prompt_alignment_weight: Open[float] = Field(
        0.0,
        ge=0,
        le=100,
        description="Prompt alignment: what target_prompts show stays as the base has it; 0: off, 0.3: usual",
    )
    prompt_alignment_interval: Open[int] = Field(
        1, ge=1, le=100, description="Do so every N steps with N times the weight"
    )
    mask_floor: Open[float | None] = Field(
        None, ge=0, le=1, description="How much the loss counts outside the mask; by default 0.3 for faces, else 0.1"
    )

    zero_terminal_snr: Open[bool] = Field(
        False,
        description="Rescale the noise schedule so that it ends in pure noise, for v-prediction: darker darks, lighter "
        "lights. A base whose own scheduler does so has it anyway; loss_weighting is then uniform unless set",
    )

    token_attention_weight: Open[float] = Field(
        0.0, ge=0, le=100, description="Keeps cross-attention to the new tokens inside the mask; 0: off, 0.1: usual"
    )
    token_norm_weight: Open[float] = Field(
        0.0, ge=0, le=100, description="Keeps token norms near the vocabulary's; 0: off, 0.01: usual"
    )
    token_covariance_weight: Open[float] = Field(
        0.0, ge=0, le=100, description="Keeps tokens within the vocabulary's covariance; 0: off, 0.001: usual"
    )
    adapter_l1_weight: Open[float] = Field(
        0.0, ge=0, le=100, description="L1 penalty on the adapter; 0: off, 0.03: usual"
    )

    @property
    def unused_prior_settings(self) -> tuple[str, ...]:
        """What is wrong, a sentence each, with settings of prior matching that are set although it is off."""
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

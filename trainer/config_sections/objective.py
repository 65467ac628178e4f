"""What is minimised."""

from typing import Literal

from pydantic import Field, model_validator

from preprocess.settings import Settings


class ObjectiveSection(Settings):
    """The terms of the loss, and what they weigh."""

    loss_weighting: Literal["uniform", "min_snr", "debiased"] = Field(
        "min_snr",
        description="How much each timestep counts; debiased (ε only) stresses high noise: colours and layout",
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="γ of the min-SNR weighting")
    prior_matching_weight: float = Field(
        0.0, ge=0, le=1000, description="Holds the model to the base where the trigger is absent; 0: off, 1: usual"
    )
    prior_prompts: tuple[str, ...] = Field(
        (), description="Prompts whose pictures shall stay as they are, besides captions with the class word"
    )
    mask_floor: float | None = Field(
        None, ge=0, le=1, description="How much the loss counts outside the mask; by default 0.3 for faces, else 0.1"
    )

    zero_terminal_snr: bool = Field(
        False,
        description="Rescale the noise schedule so that it ends in pure noise, for v-prediction: darker darks, lighter "
        "lights. A base whose own scheduler does so has it anyway; loss_weighting is then uniform unless set",
    )

    @model_validator(mode="after")
    def _objective_rules(self) -> "ObjectiveSection":
        if self.loss_weighting != "min_snr" and "min_snr_gamma" in self.model_fields_set and self.min_snr_gamma != 5.0:
            raise ValueError(f"min_snr_gamma has no effect with loss_weighting {self.loss_weighting}; leave one out")
        if self.prior_prompts and self.prior_matching_weight == 0:
            raise ValueError("prior_prompts has no effect with prior_matching_weight 0; set it, or leave them out")
        return self

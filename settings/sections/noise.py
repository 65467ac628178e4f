"""Changes of noise, timesteps and prompt features during training."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Open
from settings.record import Settings

USUAL_DISCOUNT = 0.3
"""kohya's default."""
TimestepSampling = Literal["auto", "uniform", "logit_normal", "sigmoid", "shift"]


class NoiseSection(Settings):
    """Noise, timesteps, and noise on prompts."""

    noise_offset: Open[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="Adds an offset to the noise of each channel, for darker and lighter images; usually 0.02 to 0.05",
    )
    multires_noise_iterations: Open[int] = Field(
        0,
        ge=0,
        le=16,
        description="Pyramid noise: number of coarser noise levels that are added, for large areas of light and "
        "colour; usually 6 to 10; 0: none",
    )
    multires_noise_discount: Open[float] = Field(
        USUAL_DISCOUNT,
        gt=0,
        lt=1,
        description="Weight of each level of pyramid noise relative to the finer one; usually 0.1 to 0.4",
    )
    input_perturbation: Open[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="Noise added to the input but not to the target, against accumulated sampling errors; usually 0.1",
    )
    conditioning_noise: Open[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="Noise on half of the prompt features, in units of their standard deviation; usually 0.02 to 0.1",
    )
    image_embedding_share: Open[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="Stable Cascade's Stage C: share of the images that are trained with their own image embedding in "
        "addition to the caption, by the base model's image encoder; 0.1 in the original code",
    )
    dream: Open[float | None] = Field(
        None,
        gt=0,
        le=20,
        description="DREAM: adds the model's own error to input and target, times the noise scale to this power; "
        "usually 1, larger values are weaker. A third more time",
    )
    min_timestep: Open[float] = Field(
        0.0, ge=0, lt=1, description="Lower limit of the trained timesteps: 0 is the clean image, 1 is pure noise"
    )
    max_timestep: Open[float] = Field(1.0, gt=0, le=1, description="Upper limit of the trained timesteps")
    timestep_sampling: Open[TimestepSampling] = Field(
        "auto",
        description="Distribution of the timesteps: uniform; logit_normal (also called sigmoid); shift: logit-normal, "
        "shifted towards noise as in the base model's own scheduler; auto: as the base model was trained, or by "
        "timestep_bias",
    )
    timestep_bias: Open[float | None] = Field(
        None,
        ge=-5,
        le=5,
        description="Mean of logit-normal timesteps: centred (0), towards noise (1) or towards details (-1)",
    )

    @property
    def restricts_timesteps(self) -> bool:
        """Whether timesteps have another distribution than that of the base model's process."""
        drawn = (self.min_timestep, self.max_timestep, self.timestep_bias, self.timestep_sampling)
        return drawn != (0.0, 1.0, None, "auto")

    @model_validator(mode="after")
    def _noise_rules(self) -> "NoiseSection":
        if self.multires_noise_iterations > 0 and self.noise_offset > 0:
            raise ValueError(
                "multires_noise_iterations and noise_offset both add low-frequency noise; leave one of them out"
            )
        if self.multires_noise_iterations == 0 and self.multires_noise_discount != USUAL_DISCOUNT:
            raise ValueError("multires_noise_discount has no effect without multires_noise_iterations; set 6 to 10")
        if self.dream is not None and self.input_perturbation > 0:
            raise ValueError("dream and input_perturbation both change the input; leave one of them out")
        if self.timestep_sampling == "uniform" and self.timestep_bias is not None:
            raise ValueError("timestep_bias has no effect with timestep_sampling: uniform; leave one of them out")
        if self.min_timestep >= self.max_timestep:
            raise ValueError(
                f"min_timestep ({self.min_timestep:g}) must be less than max_timestep ({self.max_timestep:g})"
            )
        return self

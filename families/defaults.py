"""A family's defaults for settings that are not given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyDefaults:
    """Defaults of a family by their names in the configuration (docs/settings.md).

    `learning_rate`: peak rate of the adapter, for optimizers that do not estimate it; None: by the base model's width.
    `num_tokens`: new tokens for each trigger word; 0: the trigger word is an ordinary word. `fewest_tokens`: 0 if
    ordinary words are allowed. `timestep_bias`: mean of the logit-normal distribution; None: the noise process' own
    distribution. `resolution`: side in pixels; None: `native_resolution`. `loss_weighting`: of timesteps; None: that of
    all families.
    """

    learning_rate: float | None = None
    num_tokens: int = 2
    fewest_tokens: int = 1
    guidance_scale: float = 6.0
    num_inference_steps: int = 30
    timestep_bias: float | None = None
    resolution: int | None = None
    loss_weighting: str | None = None

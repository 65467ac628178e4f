"""What a family wants where the user left a setting open."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyDefaults:
    """Settings of a training by their names in the configuration (docs/settings.md).

    `learning_rate`: peak of the adapter, for optimizers that do not find it themselves. `num_tokens`: new tokens for
    each trigger word; 0: the trigger is a plain word. `fewest_tokens`: 0 where plain words are allowed.
    `timestep_bias`: mean of the logit-normal draw; None: the noise process' own draws. `resolution`: side in pixels;
    None: `native_resolution`.
    """

    learning_rate: float = 1e-4
    num_tokens: int = 2
    fewest_tokens: int = 1
    guidance_scale: float = 6.0
    num_inference_steps: int = 30
    timestep_bias: float | None = None
    resolution: int | None = None

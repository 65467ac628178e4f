"""How a ControlNet is trained."""

from pydantic import Field

from settings.callers import Open
from settings.record import Settings

CONTROLNET_RATE = 1e-5
"""As diffusers' guide has it (batches of 16 and more)."""


class ControlNetSection(Settings):
    """With adapter controlnet. What it is conditioned on is a setting of the preparation: `control`."""

    control_dropout: Open[float] = Field(
        0.0,
        ge=0,
        lt=1,
        description="With adapter controlnet: share of conditioning pictures trained black, which says nothing",
    )

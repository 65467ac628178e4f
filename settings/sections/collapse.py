"""Training phases, and the guard against early collapse."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Open
from settings.record import Settings

CollapseGuardName = Literal["off", "warn", "lower"]


class CollapseSection(Settings):
    """Training phases, and the guard against early collapse."""

    tokens_first: Open[float] = Field(
        0.0, ge=0, lt=1, description="Fraction of the run in which only the tokens are trained, at its start"
    )
    tokens_until: Open[float] = Field(
        1.0,
        gt=0,
        le=1,
        description="Fraction of the run after which only the adapter is trained",
    )
    diagnostics_steps: Open[int] = Field(
        10, ge=1, description="Log the change of weights and tokens to metrics.jsonl every N steps"
    )
    collapse_guard: Open[CollapseGuardName] = Field(
        "warn",
        description="If the adapter changes too fast in the first fifth of the run: print a warning (warn), or also "
        "halve its learning rate (lower)",
    )
    collapse_limit: Open[float] = Field(
        0.05, gt=0, le=10, description="Relative change of a block's weights that counts as too fast"
    )

    @model_validator(mode="after")
    def _phase_rules(self) -> "CollapseSection":
        if self.tokens_first >= self.tokens_until:
            raise ValueError(
                f"tokens_first ({self.tokens_first:g}) must be less than tokens_until ({self.tokens_until:g}); "
                "adapter and tokens are trained together between them"
            )
        return self

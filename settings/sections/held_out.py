"""Validation on held-out images."""

from pydantic import Field, model_validator

from settings.callers import Open
from settings.record import Settings


class HeldOutSection(Settings):
    """Validation on pictures that are not trained."""

    validation_steps: Open[int | None] = Field(
        None, ge=1, description="Every so many steps, measure the loss on held-out pictures, and return the best step"
    )
    validation_share: Open[float] = Field(
        0.1, gt=0, le=0.5, description="Of the images, held out; where that is less than one, crops of them are"
    )
    early_stopping_patience: Open[int | None] = Field(
        None, ge=1, description="End the run after so many validations in a row without a better one; by default never"
    )

    @model_validator(mode="after")
    def _held_out_rules(self) -> "HeldOutSection":
        if self.validation_steps is not None:
            return self
        for name in ("validation_share", "early_stopping_patience"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without validation_steps; set it, or leave it out")
        return self

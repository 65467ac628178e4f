"""Validation on held-out images."""

from pydantic import Field, model_validator

from settings.callers import Open
from settings.record import Settings


class HeldOutSection(Settings):
    """Validation on images that are not trained."""

    validation_steps: Open[int | None] = Field(
        None, ge=1, description="Compute the loss on held-out images every N steps, and return the best step"
    )
    validation_share: Open[float] = Field(
        0.1,
        gt=0,
        le=0.5,
        description="Fraction of the images that is held out; if that is less than one image, crops of the training "
        "images are used",
    )
    early_stopping_patience: Open[int | None] = Field(
        None, ge=1, description="End the run after N validations without improvement; by default never"
    )
    keep_best: Open[int | None] = Field(
        None,
        ge=1,
        le=20,
        description="Keep the checkpoints of the N steps with the lowest validation score, in addition to the last "
        "keep_checkpoints, by default one; without keep_best all are kept",
    )

    @model_validator(mode="after")
    def _held_out_rules(self) -> "HeldOutSection":
        if self.validation_steps is not None:
            return self
        for name in ("validation_share", "early_stopping_patience", "keep_best"):
            if self.differs(name):
                raise ValueError(f"{name} has no effect without validation_steps; set it, or leave it out")
        return self

"""Class images: a preservation set that the base generates."""

from pydantic import Field, model_validator

from settings.callers import Limited, Open
from settings.record import Settings


class ClassImagesSection(Settings):
    """Pictures of the class, as DreamBooth's prior preservation has them (Ruiz et al. 2023, §3.3)."""

    num_class_images: Limited[int] = Field(
        0,
        ge=0,
        le=10_000,
        description="Number of images of the class_word that the base model generates before the training, as "
        "preservation set. 0: none; DreamBooth uses 100 to 200",
    )
    class_prompt: Open[str | None] = Field(
        None,
        min_length=1,
        max_length=300,
        description="Prompt and caption of the class images; by default the concept mode's template with the "
        "class_word",
    )

    @model_validator(mode="after")
    def _class_image_rules(self) -> "ClassImagesSection":
        if self.class_prompt is not None and self.num_class_images == 0:
            raise ValueError("class_prompt has no effect without num_class_images; set it, or leave class_prompt out")
        return self

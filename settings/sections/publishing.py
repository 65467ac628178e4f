"""Publishing on the Hugging Face hub."""

from pydantic import Field, model_validator

from settings.callers import Open, Operator
from settings.record import Settings

TOKEN_VARIABLE = "PUBLISH_TOKEN"
"""Environment variable with the caller's token for publishing, if it is not the owner's HF_TOKEN."""


class PublishingSection(Settings):
    """The Hugging Face hub. Its token is read from the environment (HF_TOKEN) and never stored."""

    push_to_hub: Operator[str | None] = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$",
        description="Repository (owner/name) on the Hugging Face hub for the result, with a model card",
    )
    hub_private: Open[bool] = Field(True, description="Make a new repository private; existing ones are not changed")
    hub_license: Open[str | None] = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.+-]*$", description="Licence in the model card, as named by the hub: mit, …"
    )

    @model_validator(mode="after")
    def _publishing_rules(self) -> "PublishingSection":
        if self.push_to_hub is None and (not self.hub_private or self.hub_license is not None):
            raise ValueError(
                "hub_private and hub_license have no effect without push_to_hub; set it, or leave them out"
            )
        return self

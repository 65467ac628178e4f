"""The new words in the text encoders."""

from pydantic import Field

from preprocess.settings import Settings


class TokenSection(Settings):
    """Placeholder tokens: how many, and how they start."""

    num_tokens: int = Field(2, ge=1, le=64, description="New tokens in each text encoder that stand for the trigger")

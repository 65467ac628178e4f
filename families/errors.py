"""The error for an unusable base model."""


class BaseModelError(ValueError):
    """A base model that cannot be found, read or used. The message names the remedy."""

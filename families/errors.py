"""The error that a wrong base model raises."""


class BaseModelError(ValueError):
    """A base model that cannot be found, read or used. The text names the remedy."""

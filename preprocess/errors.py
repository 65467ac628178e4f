"""The error for unusable training data."""


class DatasetError(ValueError):
    """Training data that cannot be used. The text says file, reason and remedy."""

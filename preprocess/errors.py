"""The error for unusable training data."""


class DatasetError(ValueError):
    """Training data that cannot be used. The message names file, reason and remedy."""

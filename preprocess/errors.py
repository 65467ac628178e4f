"""The error that unusable training data raises."""


class DatasetError(ValueError):
    """Training data that cannot be used. The text says file, reason and remedy."""

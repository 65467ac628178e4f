"""The errors for unusable training data."""


class DatasetError(ValueError):
    """Training data that cannot be used. The message names file, reason and remedy."""


class SetupError(DatasetError):
    """A cause other than the data: a missing package or model of data preparation, or a full disk."""

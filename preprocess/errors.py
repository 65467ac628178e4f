"""The errors for unusable training data."""


class DatasetError(ValueError):
    """Training data that cannot be used. The message names file, reason and remedy."""


class SetupError(DatasetError):
    """What no other data would change: a package or model of data preparation that is missing, or a full disk."""

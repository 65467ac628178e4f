"""The error of a failed publication."""


class PublishingFailed(RuntimeError):
    """The result is in the output folder, and not on the hub. The text says why, and where it is."""

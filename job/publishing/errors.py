"""The error of a result that could not be published."""


class PublishingFailed(RuntimeError):
    """The result is in the output folder, and not on the hub. The text says why, and where it is."""

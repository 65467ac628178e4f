"""The error of a failed publication."""


class PublishingFailed(RuntimeError):
    """Publishing failed; the result is in the output folder. The message contains the reason and the path."""

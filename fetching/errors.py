"""Errors of failed downloads."""


class DownloadError(ValueError):
    """A file that could not be fetched, or must not be. The message names the reason."""


class DownloadTooLarge(DownloadError):
    """A file that is larger than the caller allows."""

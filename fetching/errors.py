"""Errors of failed downloads."""


class DownloadError(ValueError):
    """A file that cannot be downloaded or is not allowed. The message gives the reason."""


class DownloadTooLarge(DownloadError):
    """A file that is larger than the caller allows."""

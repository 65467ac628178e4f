"""Recognises the errors of a full disk from any library."""

import errno

CODES = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException) -> bool:
    """Whether the error means a full disk. Errors of safetensors have the code only in their text."""
    if isinstance(error, OSError):
        return error.errno in CODES
    said = str(error)
    in_words = any(f"os error {code}" in said or f"code: {code}," in said for code in CODES)
    return type(error).__name__ == "SafetensorError" and in_words

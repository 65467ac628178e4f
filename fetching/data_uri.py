"""Decodes files inside data URIs, as Cog's clients send them (RFC 2397)."""

import base64
import binascii

from fetching.errors import DownloadError, DownloadTooLarge


def decode_data_uri(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of a base64 data URI. Raises DownloadError."""
    head, _, data = uri.partition(",")
    try:
        if not head.endswith(";base64"):
            raise DownloadError("data URI: must be encoded in base64")
        if len(data) * 3 // 4 > max_bytes:
            raise DownloadTooLarge(f"data URI: is larger than {max_bytes:,} bytes")
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise DownloadError(f"data URI: its base64 is damaged ({error})") from None

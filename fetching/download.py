"""Fetches one file that is named by URL, with limits on scheme, size and time."""

import base64
import binascii
from pathlib import Path
from urllib.parse import urlsplit

import requests

MAX_BYTES = 4 * 1024**3
CONNECT_AND_READ_SECONDS = (10, 30)
CHUNK = 1 << 20


class DownloadError(ValueError):
    """A file that could not be fetched. The text names the reason."""


class DownloadTooLarge(DownloadError):
    """A file that is larger than the caller allows."""


def is_url(text: str) -> bool:
    """Whether `text` is a URL that `download` fetches."""
    return text.startswith(("http://", "https://", "data:"))


def download(url: str, target: Path, *, allow_http: bool = False, max_bytes: int = MAX_BYTES) -> Path:
    """Fetch `url` (https, data:, or http where allowed) into the file `target`. Raises DownloadError."""
    if url.startswith("data:"):
        target.write_bytes(_decode(url, max_bytes))
        return target
    _require_scheme(url, allow_http)
    try:
        with requests.get(url, stream=True, timeout=CONNECT_AND_READ_SECONDS) as response:
            _require_scheme(response.url, allow_http)
            response.raise_for_status()
            received = 0
            with target.open("wb") as file:
                for chunk in response.iter_content(CHUNK):
                    received += len(chunk)
                    if received > max_bytes:
                        raise DownloadTooLarge(f"{shown(url)}: larger than {max_bytes:,} bytes")
                    file.write(chunk)
    except requests.HTTPError as error:
        raise DownloadError(f"{shown(url)}: the server answered {error.response.status_code}") from None
    except requests.RequestException as error:
        raise DownloadError(f"{shown(url)}: cannot be fetched: {type(error).__name__}") from None
    return target


def shown(url: str) -> str:
    """The URL without its query, which may hold a secret."""
    if url.startswith("data:"):
        return "data URI"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


def _decode(url: str, max_bytes: int) -> bytes:
    head, _, data = url.partition(",")
    try:
        if not head.endswith(";base64"):
            raise DownloadError("data URI: base64 is expected")
        if len(data) * 3 // 4 > max_bytes:
            raise DownloadTooLarge(f"data URI: larger than {max_bytes:,} bytes")
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise DownloadError(f"data URI: damaged base64 ({error})") from None


def _require_scheme(url: str, allow_http: bool) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in (("http", "https") if allow_http else ("https",)):
        raise DownloadError(f"{shown(url)}: only https is fetched")

"""Downloads one file by URL, within the operator's rules (`fetching.rules`)."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from urllib.parse import unquote, urljoin

import requests
import urllib3
from urllib3.util import Url, parse_url

from fetching.addresses import Resolver, resolve
from fetching.connection import Guard, guarded_session
from fetching.data_uri import decode_data_uri
from fetching.disk import is_disk_full
from fetching.errors import DownloadError, DownloadTooLarge
from fetching.rules import FetchRules

CONNECT_AND_READ_SECONDS = (10, 30)
CHUNK = 1 << 20
MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_NAME = 200
"""In bytes: file systems allow 255."""


@dataclass(frozen=True)
class Download:
    """A downloaded file. `file_name`: its name by the server or the URL, sanitised; "" without one."""

    path: Path
    file_name: str
    sha256: str


def is_url(text: str) -> bool:
    """Whether `text` is a URL that `download` supports."""
    return text.startswith(("http://", "https://", "data:"))


def download(
    url: str,
    target: Path,
    *,
    max_bytes: int | None = None,
    rules: FetchRules | None = None,
    resolver: Resolver = resolve,
) -> Download:
    """Download `url` (https, data:, or http where the rules allow it) into the file `target`.

    `rules` default to those of the environment; `max_bytes` can only lower their limit. Schemes, hosts and addresses
    are checked again after every redirect, and a token is sent only to its own host. Raises DownloadError, and leaves
    no incomplete file.
    """
    rules = rules or FetchRules.from_environment()
    rules = replace(rules, max_bytes=min(max_bytes or rules.max_bytes, rules.max_bytes))
    if url.startswith("data:"):
        data = decode_data_uri(url, rules.max_bytes)
        target.write_bytes(data)
        return Download(target, "", hashlib.sha256(data).hexdigest())
    try:
        return _guarded(url, target, rules, resolver)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _guarded(url: str, target: Path, rules: FetchRules, resolver: Resolver) -> Download:
    guard = Guard(rules, resolver)
    try:
        with guard.watching(), guarded_session(guard) as session:
            downloaded = _download(url, target, rules, session)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if is_disk_full(error):
            raise
        if not guard.expired:  # the error's text may contain a token
            raise DownloadError(f"{shown(url)}: cannot be downloaded: {type(error).__name__}") from None
    except DownloadError:
        raise
    except ValueError:  # requests follows a redirect in part, even if it should not
        raise DownloadError(f"{shown(url)}: redirects to an invalid URL") from None
    if guard.expired:  # the file may be incomplete
        raise DownloadError(f"{shown(url)}: took longer than {rules.max_seconds:g} s (FETCH_MAX_SECONDS)")
    return downloaded


def shown(url: str) -> str:
    """Return the URL without user name, password and query, which may contain a secret."""
    if url.startswith("data:"):
        return "data URI"
    try:
        parts = parse_url(url)
    except urllib3.exceptions.LocationParseError:
        return "URL"
    return f"{parts.scheme}://{parts.host}{f':{parts.port}' if parts.port else ''}{parts.path or ''}"


def _download(url: str, target: Path, rules: FetchRules, session: requests.Session) -> Download:
    with _open(url, rules, session) as response:
        declared = response.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > rules.max_bytes:
            raise DownloadTooLarge(f"{shown(url)}: is larger than {rules.max_bytes:,} bytes")
        digest, received = hashlib.sha256(), 0
        with target.open("wb") as file:
            for chunk in _chunks(response):
                received += len(chunk)
                if received > rules.max_bytes:
                    raise DownloadTooLarge(f"{shown(url)}: is larger than {rules.max_bytes:,} bytes")
                digest.update(chunk)
                file.write(chunk)
        if declared.isdigit() and received != int(declared):
            raise DownloadError(f"{shown(url)}: the connection ended after {received:,} of {int(declared):,} bytes")
        return Download(target, _file_name(response, url), digest.hexdigest())


def _open(url: str, rules: FetchRules, session: requests.Session) -> requests.Response:
    """Follow redirects, and return the response with its body unread."""
    location = url
    for _ in range(MAX_REDIRECTS + 1):
        headers = {"Accept-Encoding": "identity"}
        if token := _token(_allowed(location, rules), rules):
            headers["Authorization"] = f"Bearer {token}"
        response = session.get(
            location, stream=True, allow_redirects=False, timeout=CONNECT_AND_READ_SECONDS, headers=headers
        )
        if response.status_code not in REDIRECTS:
            break
        location = urljoin(location, response.headers.get("Location", ""))
        response.close()
    else:
        raise DownloadError(f"{shown(url)}: redirects more than {MAX_REDIRECTS} times")
    if response.status_code != 200:
        response.close()
        raise DownloadError(f"{shown(url)}: the server answered {response.status_code}")
    return response


def _allowed(url: str, rules: FetchRules) -> Url:
    """Parse the URL. Raises DownloadError when scheme or host are not allowed."""
    try:
        parts = parse_url(url)  # the connection's own parser: both see the same host
    except urllib3.exceptions.LocationParseError:
        raise DownloadError("the URL cannot be parsed") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and rules.allow_http):
        remedy = " The operator can allow http with FETCH_ALLOW_HTTP=1." if parts.scheme == "http" else ""
        raise DownloadError(f"{shown(url)}: only https is allowed.{remedy}")
    if not parts.host or not rules.allows_host(parts.host):
        raise DownloadError(f"{shown(url)}: the host is not in the operator's list (FETCH_ALLOWED_HOSTS)")
    return parts


def _token(parts: Url, rules: FetchRules) -> str | None:
    """Return the token for exactly this host, None for plain http and for URLs with a password."""
    if parts.scheme != "https" or parts.auth:
        return None
    return rules.tokens.get((parts.host or "").lower())


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as received, without decoding it."""
    while chunk := response.raw.read1(CHUNK, decode_content=False):
        yield chunk


def _file_name(response: requests.Response, url: str) -> str:
    """Return the name in Content-Disposition (as by Civitai), else the last part of the URL's path."""
    header = Message()
    header["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    name = header.get_filename() or unquote((parse_url(url).path or "").rpartition("/")[2])
    safe = re.sub(r"[^\w.()+ -]", "_", name.replace("\\", "/").rpartition("/")[2]).strip(". ")
    return safe.encode()[-LONGEST_NAME:].decode(errors="ignore").strip(". ")
